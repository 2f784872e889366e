"""Weights beside the base model that they name: which tensors changed, by how much, and why not.

A fine-tune changes what it trained. Whatever else differs from the base was changed by somebody
whom the training record does not know. The change of a tensor is the relative Frobenius norm
‖W' - W‖ / ‖W‖, summed in double precision over pieces of bounded size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import MalformedFile, WrongKindOfPath
from pipelines.records import Finding
from pipelines.template import template_sha256
from pipelines.verification.findings import info, listed, quoted, refusal, warning
from pipelines.verification.safetensors_header import Tensor, read_safetensors

PIECE_BYTES = 4 * 1024 * 1024
SHOWN = 8
_REMEDY = "Ask whoever trained it, or train again from the recorded base."
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_FLOATS = {"F32": "<f4", "F64": "<f8", "F16": "<f2"}


@dataclass(frozen=True)
class Change:
    """One tensor against the base's: 0 is equal, 1 as large a change as the tensor itself."""

    name: str
    file: str
    relative: float


def compare_with_base(
    base: Path, model: Path, trained: frozenset[str] | None = None
) -> Iterator[Finding]:
    """Findings about the folder `model` against the folder `base`.

    `trained` are the modules that a training record names (`q_proj`, `v_proj`): any other tensor
    that changed is then a refusal, and so are another template and another tokenizer. Without a
    record all of that is to be looked at. Raises WrongKindOfPath when either is no folder, and
    MalformedFile for a header that breaks its format's rules.
    """
    ours, theirs = _tensors(model), _tensors(base)
    if not theirs:
        fact = "the base has no safetensors, so nothing can be compared with it"
        yield refusal("base.unreadable", "", fact, "Name the folder of the base's weights.")
        return
    make = warning if trained is None else refusal
    for name in sorted(ours.keys() - theirs.keys()):
        fact = f"the base has no tensor {quoted(name)}"
        yield make("base.extra-tensor", ours[name][0].name, fact, _REMEDY)
    if absent := sorted(theirs.keys() - ours.keys()):
        yield make(
            "base.missing-tensor", "", f"the base has {listed(absent)}, these have not", _REMEDY
        )
    changes = [_change(n, ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]
    changed = [change for change in changes if change.relative > 0]
    yield _summary(changes, changed)
    if trained is not None:
        for change in changed:
            if not _is_trained(change.name, trained):
                fact = f"{quoted(change.name)} differs from the base by {change.relative:.3g}, "
                fact += f"and the training record names {listed(sorted(trained))} only"
                yield refusal("base.undeclared-change", change.file, fact, _REMEDY)
    yield from _compare_text(base, model, trained is not None)


def _is_trained(name: str, trained: frozenset[str]) -> bool:
    return any(part in trained for part in name.split("."))


def _summary(changes: list[Change], changed: list[Change]) -> Finding:
    largest = sorted(changed, key=lambda change: (-change.relative, change.name))[:SHOWN]
    shown = ", ".join(f"{quoted(change.name)} by {change.relative:.3g}" for change in largest)
    fact = f"{len(changed)} of {len(changes)} tensors differ from the base"
    return info("base.changes", "", f"{fact}: {shown}" if shown else fact)


def _tensors(folder: Path) -> dict[str, tuple[Path, Tensor]]:
    if not folder.is_dir():
        raise WrongKindOfPath(folder, "a folder of weights")
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in read_safetensors(path).tensors:
            found[tensor.name] = (path, tensor)
    return found


def _change(name: str, ours: tuple[Path, Tensor], theirs: tuple[Path, Tensor]) -> Change:
    """Equal bytes give 0; another shape or a type without numbers gives infinity."""
    (path, one), (other_path, other) = ours, theirs
    if one.shape != other.shape:
        return Change(name, path.name, math.inf)
    if one.dtype != other.dtype and not {one.dtype, other.dtype} <= {*_FLOATS, "BF16"}:
        return Change(name, path.name, math.inf)
    difference = norm = 0.0
    unequal = False
    for mine, base in zip(_pieces(path, one), _pieces(other_path, other), strict=True):
        if one.dtype == other.dtype and mine == base:
            values = _numbers(base, other.dtype)
            norm += 0.0 if values is None else float(np.dot(values, values))
            continue
        unequal = True
        a, b = _numbers(mine, one.dtype), _numbers(base, other.dtype)
        if a is None or b is None:
            return Change(name, path.name, math.inf)
        difference += float(np.dot(a - b, a - b))
        norm += float(np.dot(b, b))
    if not unequal or difference == 0:
        return Change(name, path.name, 0.0)
    return Change(name, path.name, math.sqrt(difference / norm) if norm else math.inf)


def _pieces(path: Path, tensor: Tensor) -> Iterator[bytes]:
    """The tensor's bytes in pieces of the same number of elements, whatever its type."""
    if not tensor.elements:
        return
    width = max(1, tensor.size_bytes // tensor.elements)
    step = PIECE_BYTES // 8 * width
    with path.open("rb") as file:
        file.seek(tensor.offset)
        left = tensor.size_bytes
        while left > 0:
            piece = file.read(min(step, left))
            if not piece:
                raise MalformedFile(path.name, "safetensors.truncated", "it was cut short")
            left -= len(piece)
            yield piece


def _numbers(data: bytes, dtype: str) -> np.ndarray[Any, Any] | None:
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64)
    return np.frombuffer(data, _FLOATS[dtype]).astype(np.float64) if dtype in _FLOATS else None


def _compare_text(base: Path, model: Path, declared: bool) -> Iterator[Finding]:
    """A template or a tokenizer that is not the base's."""
    make = refusal if declared else warning
    ours, theirs = template_sha256(model), template_sha256(base)
    if ours != theirs:
        fact = f"its chat template is {ours or 'none'}, the base's is {theirs or 'none'}"
        yield make("base.template", "chat_template.jinja", fact, "Take the base's template.")
    for name in _TOKENIZER:
        one, other = model / name, base / name
        if one.is_file() and other.is_file() and one.read_bytes() != other.read_bytes():
            yield make("base.tokenizer", name, "it is not the base's", "Take the base's tokenizer.")
