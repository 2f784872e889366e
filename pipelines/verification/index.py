"""Shard indexes: what an index says against the shards that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, quoted, refusal, refusals, warning
from pipelines.verification.safetensors_header import Header

INDEX_SUFFIX = ".index.json"
_STANDALONE = frozenset({"model.safetensors", "adapter_model.safetensors"})
_ORIGINAL = re.compile(r"consolidated[\w.-]*\.safetensors")  # Mistral's own layout beside HF's
_PLAIN_NAME = re.compile(r"[^/\\:]+")
_REMEDY = "Fetch index and shards again from one revision of the publisher's repository."


def check(contents: Contents) -> Iterator[Finding]:
    """Every index, and every safetensors file that no index names."""
    named: set[str] = set()
    for name, document in contents.documents.items():
        if name.endswith(INDEX_SUFFIX) and not isinstance(document, dict):
            yield refusal("index.weight-map", name, "its top level is not an object", _REMEDY)
    for name, document in contents.objects():
        if name.endswith(INDEX_SUFFIX) or "weight_map" in document:
            weight_map = document.get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                yield refusal("index.weight-map", name, "it has no weight_map", _REMEDY)
                continue
            yield from _check_index(contents, name, weight_map, named)
            yield from _check_total(contents, name, document)
    yield from _check_unnamed(contents, named)


def _check_index(
    contents: Contents, name: str, weight_map: dict[str, Any], named: set[str]
) -> Iterator[Finding]:
    folder = PurePosixPath(name).parent
    said: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _PLAIN_NAME.fullmatch(shard) or shard in (".", ".."):
            fact = f"it sends {quoted(tensor)} to {quoted(shard)}, which is no file beside it"
            yield refusal("index.path", name, fact, _REMEDY)
            return
        said.setdefault(str(folder / shard), set()).add(tensor)
    for shard, tensors in sorted(said.items()):
        header = contents.safetensors.get(shard)
        if header is None:
            fact = f"it names the shard {quoted(shard)}, which is not here or cannot be read"
            yield refusal("index.missing-shard", name, fact, _REMEDY)
        elif shard in named:
            fact = f"another index names the shard {quoted(shard)} too"
            yield refusal("index.two-indexes", name, fact, _REMEDY)
        else:
            yield from _check_shard(name, shard, header, tensors)
        named.add(shard)


def _check_shard(index: str, shard: str, header: Header, said: set[str]) -> Iterator[Finding]:
    files = (shard, index)
    there = {tensor.name for tensor in header.tensors}
    if absent := sorted(said - there):
        fact = f"{index} says that {listed(absent)} lie in {shard}, and they do not"
        yield from refusals("index.missing-tensor", files, fact, _REMEDY)
    if extra := sorted(there - said):
        fact = f"{listed(extra)} lie in {shard}, and {index} does not say so"
        yield from refusals("index.extra-tensor", files, fact, _REMEDY)


def _check_total(contents: Contents, name: str, document: dict[str, Any]) -> Iterator[Finding]:
    metadata = document.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    folder = PurePosixPath(name).parent
    shards = {str(folder / str(shard)) for shard in document["weight_map"].values()}
    headers = [contents.safetensors[shard] for shard in shards if shard in contents.safetensors]
    actual = sum(tensor.size_bytes for header in headers for tensor in header.tensors)
    if total is None or total == actual:
        return
    fact = f"it says that the tensors have {quoted(total)} bytes, they have {actual}"
    if _is_usual_miscount(total, actual, headers):
        yield warning("index.total-size", name, fact, "Nothing reads it; ask the publisher.")
    else:
        yield refusal("index.total-size", name, fact, _REMEDY)


def _is_usual_miscount(total: Any, actual: int, headers: list[Header]) -> bool:
    """Tools count tied embeddings twice, leave a zero, or count before a conversion of type."""
    if type(total) not in (int, float) or total < 0:
        return False
    if total in (0, 2 * actual, 4 * actual, actual / 2, actual / 4):
        return True
    sizes = {tensor.size_bytes for header in headers for tensor in header.tensors}
    return abs(total - actual) in sizes


def _check_unnamed(contents: Contents, named: set[str]) -> Iterator[Finding]:
    """A weights file that no index names is loaded by some engines and not by others."""
    by_folder: dict[PurePosixPath, list[str]] = {}
    for name in contents.safetensors:
        by_folder.setdefault(PurePosixPath(name).parent, []).append(name)
    for names in by_folder.values():
        has_index = any(name in named for name in names)
        for name in sorted(set(names) - named):
            base = PurePosixPath(name).name
            if _ORIGINAL.fullmatch(base):
                fact = "it is a second copy of the weights that this check does not compare"
                yield warning(
                    "index.second-copy", name, fact, "Remove it unless an engine needs it."
                )
            elif has_index:
                fact = "it lies beside shards, and no index names it"
                yield refusal("index.unnamed-file", name, fact, _REMEDY)
            elif base not in _STANDALONE and len(names) > 1:
                fact = "it is one of several weight files, and there is no index"
                yield refusal("index.unnamed-file", name, fact, _REMEDY)
    yield from _check_duplicates(contents, named)


def _check_duplicates(contents: Contents, named: set[str]) -> Iterator[Finding]:
    seen: dict[tuple[PurePosixPath, str], str] = {}
    for name in sorted(named & contents.safetensors.keys()):
        for tensor in contents.safetensors[name].tensors:
            other = seen.setdefault((PurePosixPath(name).parent, tensor.name), name)
            if other != name:
                fact = f"{quoted(tensor.name)} lies in {quoted(other)} too"
                yield refusal("index.duplicate-tensor", name, fact, _REMEDY)
