"""Scored item blocks on this machine: an interrupted evaluation goes on where it was.

One file a block, named by the digest of everything that its numbers depend on (evals.blocks). The
first line of a file is the sha256 of the rest, so that a damaged entry is seen and scored again.
lm-eval's own caches are not used: they are pickles, and their keys name no model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pipelines.canonical import Frozen, record_bytes, sha256_bytes, write_bytes


class ScoredItem(Frozen):
    """One item as lm-eval logged it; `outputs` are the log likelihoods that it rests on."""

    doc_id: int
    doc_hash: str
    prompt_hash: str
    target_hash: str
    score: float | None
    answer: str
    gold: str | None
    prompt: str
    outputs: tuple[float, ...]
    note: str = ""  # what a scorer of ours says of the answer


class ScoredTask(Frozen):
    """Items as lm-eval aggregated them; `probe` is a log likelihood where items have none."""

    value: Any = None
    stderr: Any = None
    higher_is_better: bool | None = None
    items: tuple[ScoredItem, ...] = ()
    probe: float | None = None


class Tokens(Frozen):
    """What the model read and wrote, in tokens of its own tokenizer, without padding."""

    prompt: int = Field(default=0, ge=0)
    generated: int = Field(default=0, ge=0)


class BlockResult(Frozen):
    """What one block gave, and the engine that gave it."""

    engine: str
    scored: ScoredTask
    tokens: Tokens = Tokens()

    def is_finite(self) -> bool:
        """Whether every number is there and finite: others are never stored."""
        return all(
            isinstance(number, (int, float)) and math.isfinite(number)
            for number in _numbers(self.scored)
        )


class BlockStore:
    """A folder of block results; every write is atomic, and any file may be deleted at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged = 0

    def path(self, key: str) -> Path:
        """Where the block `key` lies."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> BlockResult | None:
        """The block, or None when it is absent or damaged; a damaged one is named and removed."""
        path = self.path(key)
        if not path.is_file():
            return None
        digest, _, body = path.read_bytes().partition(b"\n")
        try:
            if digest.decode("ascii", errors="replace") == sha256_bytes(body):
                return BlockResult.model_validate_json(body)
            fact = "its content is not what its first line says"
        except ValidationError:
            fact = "it holds no block of this version"
        self.damaged += 1
        path.unlink(missing_ok=True)
        print(f"{path}: {fact}; scoring these items again", file=sys.stderr, flush=True)
        return None

    def put(self, key: str, block: BlockResult) -> bool:
        """Keep a block; False, and nothing is written, when a number in it is not finite."""
        if not block.is_finite():
            return False
        body = record_bytes(block)
        write_bytes(self.path(key), sha256_bytes(body).encode() + b"\n" + body)
        return True


def _numbers(scored: ScoredTask) -> Iterator[Any]:
    yield scored.value
    if not any(item.outputs for item in scored.items):
        yield scored.probe
    for item in scored.items:
        yield item.score
        yield from item.outputs
