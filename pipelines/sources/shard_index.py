"""Shard indexes at the door: none may name a file that is not beside it.

The verification reads indexes against the tensors of every shard. Here only names are looked at,
so that nothing is registered that points out of its own folder or misses a part.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import BadShardIndex
from pipelines.sources.selection import WEIGHT_PATTERNS
from pipelines.verification.findings import quoted
from pipelines.verification.index import INDEX_SUFFIX

_PLAIN_NAME = re.compile(r"[^/\\:\x00-\x1f]+")


def check_indexes(reference: str, model: Path) -> None:
    """Refuse a model folder with an index that names a file outside, or weights that are absent.

    An index of weights that are never taken (pytorch_model.bin.index.json) may name what is not
    here. Raises BadShardIndex.
    """
    for path in sorted(model.rglob(f"*{INDEX_SUFFIX}")):
        index = path.relative_to(model).as_posix()
        for tensor, shard in _entries(path):
            if not isinstance(shard, str) or not _plain(shard):
                fact = f"names {quoted(shard)}, which is no file beside it"
                raise BadShardIndex(reference, index, quoted(tensor), fact)
            taken = any(fnmatch.fnmatchcase(shard.lower(), pattern) for pattern in WEIGHT_PATTERNS)
            if taken and not (path.parent / shard).is_file():
                fact = f"names {quoted(shard)}, which did not come with it"
                raise BadShardIndex(reference, index, quoted(tensor), fact)


def _plain(shard: str) -> bool:
    return _PLAIN_NAME.fullmatch(shard) is not None and shard not in (".", "..")


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """One tensor for each file that the index names; the verification says what else is wrong."""
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # no JSON: the verification refuses it by that name
        return
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if isinstance(weight_map, dict):
        yield from {str(shard): (tensor, shard) for tensor, shard in weight_map.items()}.values()
