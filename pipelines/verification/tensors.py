"""The numbers themselves: NaN, infinity and all-zero matrices, in one pass of bounded memory.

Floats are compared as integers: with the sign bit masked away, the largest bit pattern of a tensor
says both whether it holds an infinity or NaN (exponent all ones) and whether it is all zero.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

import numpy as np

from pipelines.progress import report
from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, quoted, refusal, warning
from pipelines.verification.gguf_header import TYPES, GgufTensor
from pipelines.verification.numbers import STARTS_AT_ZERO, Seen, judge_seen
from pipelines.verification.safetensors_header import Tensor

CHUNK_BYTES = 1024 * 1024  # stays in the second-level cache between reading and judging
_REMEDY = "Fetch the file again; if its publisher's hash agrees, the model is broken: take another."


@dataclass(frozen=True)
class _Float:
    """How one float type says 'not finite': masked pattern >= `limit`."""

    unsigned: str
    mask: int
    limit: int
    zero_is_zero: bool = True


_FLOATS = {
    "F64": _Float("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": _Float("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "C64": _Float("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "F16": _Float("<u2", 0x7FFF, 0x7C00),
    "BF16": _Float("<u2", 0x7FFF, 0x7F80),
    "F8_E5M2": _Float("u1", 0x7F, 0x7C),
    "F8_E4M3": _Float("u1", 0x7F, 0x7F),
    "F8_E8M0": _Float("u1", 0xFF, 0xFF, zero_is_zero=False),  # 0 means 2**-127
}
_AS_FLOAT = {"F64": "<f8", "F32": "<f4", "C64": "<f4", "F16": "<f2"}
_END_BYTES = 4096
_NEGATIVE_ZERO_IS_NAN = {"F8_E4M3FNUZ", "F8_E5M2FNUZ"}
_NEVER_NAN = {
    *("BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F4", "F6_E2M3", "F6_E3M2"),
}

# Where the float scales of a ggml block lie (ggml-common.h): offsets of f16 values in bytes.
_BLOCK_SCALES: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q8_1": (0, 2),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,),
    "IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip


@dataclass(frozen=True)
class _Read:
    """What one pass over one tensor says; a type that is not known here gives None instead."""

    finite: bool
    nonzero: bool
    peak: float = 0.0  # the largest magnitude, 0 where the type does not give it away
    constant: bool = False


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies, and how it begins and ends."""

    file: str
    seen: Seen
    offset: int
    size: int
    ends: bytes


def check(contents: Contents) -> Iterator[Finding]:
    """Read every float tensor of the folder once; a type that cannot be judged is refused."""
    files: dict[str, tuple[Tensor, ...] | tuple[GgufTensor, ...]] = {
        **{name: header.tensors for name, header in contents.safetensors.items()},
        **{name: header.tensors for name, header in contents.ggufs.items()},
    }
    total = sum(tensor.size_bytes for tensors in files.values() for tensor in tensors)
    done = 0
    places: list[_Place] = []
    for name, tensors in files.items():
        yield from _check_file(contents.root / name, name, tensors, places)
        done += sum(tensor.size_bytes for tensor in tensors)
        report(done / 1e6, total / 1e6, "MB", "checking numbers")
    yield from _check_together(contents.root, places)


def _check_together(root: Path, places: list[_Place]) -> Iterator[Finding]:
    """Tensors of one folder beside each other; a finding names the file of the odd one."""
    alike: dict[tuple[str, int, bytes], int] = {}
    for place in places:
        key = (place.file.rpartition("/")[0], place.size, place.ends)
        alike[key] = alike.get(key, 0) + 1
    folders: dict[str, dict[str, _Place]] = {}
    for place in places:
        folder = place.file.rpartition("/")[0]
        seen = place.seen
        if alike[folder, place.size, place.ends] > 1 and seen.is_matrix and not seen.constant:
            seen = replace(seen, print=_digest(root / place.file, place.offset, place.size))
        folders.setdefault(folder, {})[seen.name] = replace(place, seen=seen)
    for there in folders.values():
        facts: dict[tuple[str, str], list[str]] = {}
        for rule, name, fact in judge_seen(place.seen for place in there.values()):
            facts.setdefault((rule, there[name].file), []).append(f"{quoted(name)}: {fact}")
        for (rule, file), found in facts.items():
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            yield refusal(rule, file, found[0] + more, _REMEDY)


def _digest(path: Path, offset: int, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        for chunk in _chunks(file, size, bytearray(CHUNK_BYTES), 1):
            digest.update(chunk)
    return digest.digest()


def _check_file(
    path: Path,
    name: str,
    tensors: tuple[Tensor, ...] | tuple[GgufTensor, ...],
    places: list[_Place],
) -> Iterator[Finding]:
    broken: list[str] = []
    empty: list[str] = []
    fresh: list[str] = []
    unknown: list[str] = []
    buffer = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        for tensor in tensors:
            kind = tensor.dtype if isinstance(tensor, Tensor) else tensor.type
            if kind in _NEVER_NAN or not tensor.size_bytes:
                continue
            read = _judge(file, kind, tensor, buffer)
            if read is None:
                unknown.append(tensor.name)
                continue
            seen = Seen(tensor.name, tensor.shape, read.peak, read.nonzero, read.constant)
            ends = _ends(file, tensor) if seen.is_matrix else b""
            places.append(_Place(name, seen, tensor.offset, tensor.size_bytes, ends))
            if not read.finite:
                broken.append(tensor.name)
            elif not read.nonzero and _must_not_be_zero(tensor):
                (fresh if STARTS_AT_ZERO.search(tensor.name) else empty).append(tensor.name)
    if broken:
        yield refusal("weights.not-finite", name, f"NaN or infinity in {listed(broken)}", _REMEDY)
    if empty:
        yield refusal("weights.all-zero", name, f"nothing but zeros in {listed(empty)}", _REMEDY)
    if fresh:
        fact = f"{listed(fresh)} are zero, as before training"
        yield warning("weights.untrained", name, fact, "Ask whether this part was trained.")
    if unknown:
        fact = f"the numbers of {listed(unknown)} are of a type that this check cannot read"
        yield refusal("weights.not-judged", name, fact, "Take a build in a common type.")


def _ends(file: FileIO, tensor: Tensor | GgufTensor) -> bytes:
    """The first and last bytes: tensors that differ there are not copies of each other."""
    count = min(_END_BYTES, tensor.size_bytes)
    last = tensor.offset + tensor.size_bytes - count
    return os.pread(file.fileno(), count, tensor.offset) + os.pread(file.fileno(), count, last)


def _must_not_be_zero(tensor: Tensor | GgufTensor) -> bool:
    """Biases start at zero and may stay there; a matrix of zeros is damage."""
    shape = [size for size in tensor.shape if size != 1]
    return len(shape) > 1 and tensor.elements > 0 and "bias" not in tensor.name.rsplit(".", 1)[-1]


def _judge(file: FileIO, kind: str, tensor: Tensor | GgufTensor, buffer: bytearray) -> _Read | None:
    """One pass over a tensor, or None for a type that is not known here."""
    file.seek(tensor.offset)
    size = tensor.size_bytes
    if kind in _FLOATS:
        return _floats(file, kind, size, buffer)
    if kind in _NEGATIVE_ZERO_IS_NAN:
        return _bytes(file, 0x80, size, buffer)
    if kind in _BLOCK_SCALES:
        return _blocks(file, kind, size, buffer)
    if kind == "MXFP4":
        return _mxfp4(file, size, buffer)
    return None


def _chunks(file: FileIO, size: int, buffer: bytearray, step: int) -> Iterator[memoryview]:
    """The next `size` bytes in whole multiples of `step`, in one reused buffer."""
    limit = len(buffer) // step * step
    view = memoryview(buffer)
    while size:
        wanted = min(size, limit)
        filled = 0
        while filled < wanted:
            count = file.readinto(view[filled:wanted])
            if not count:
                return  # cut short while it was read; the digest no longer agrees
            filled += count
        yield view[:wanted]
        size -= wanted


def _floats(file: FileIO, name: str, size: int, buffer: bytearray) -> _Read:
    kind = _FLOATS[name]
    dtype = np.dtype(kind.unsigned)
    mask = dtype.type(kind.mask)
    scratch = np.empty(len(buffer) // dtype.itemsize, dtype)
    peak, first, constant = 0, None, True
    for chunk in _chunks(file, size, buffer, dtype.itemsize):
        values = np.frombuffer(chunk, dtype)
        peak = max(peak, int(np.bitwise_and(values, mask, out=scratch[: values.size]).max()))
        first = values[0] if first is None else first
        # A few numbers tell nearly every tensor from a constant one.
        constant = constant and bool((values[:64] == first).all() and (values == first).all())
    nonzero = peak > 0 or not kind.zero_is_zero
    return _Read(peak < kind.limit, nonzero, _magnitude(name, peak), constant)


def _magnitude(name: str, pattern: int) -> float:
    """The number that a bit pattern without its sign stands for; 0 for 8-bit types."""
    if name == "BF16":
        return float(np.uint32(pattern << 16).view(np.float32))
    if name in _AS_FLOAT:
        return float(np.array([pattern], _FLOATS[name].unsigned).view(_AS_FLOAT[name])[0])
    return 0.0


def _bytes(file: FileIO, nan: int, size: int, buffer: bytearray) -> _Read:
    finite, nonzero = True, False
    for chunk in _chunks(file, size, buffer, 1):
        values = np.frombuffer(chunk, np.uint8)
        finite = finite and not bool((values == nan).any())
        nonzero = nonzero or bool(values.any())
    return _Read(finite, nonzero)


def _blocks(file: FileIO, kind: str, size: int, buffer: bytearray) -> _Read:
    """Quantised blocks: their f16 scales must be finite and not all zero."""
    block = next(bytes_ for name, _, bytes_ in TYPES.values() if name == kind)
    finite, nonzero = True, False
    for chunk in _chunks(file, size, buffer, block):
        rows = np.frombuffer(chunk, np.uint8).reshape(-1, block)
        for offset in _BLOCK_SCALES[kind]:
            scales = np.ascontiguousarray(rows[:, offset : offset + 2]).view("<u2") & 0x7FFF
            peak = int(scales.max())
            finite = finite and peak < 0x7C00
            nonzero = nonzero or peak > 0
    return _Read(finite, nonzero)


def _mxfp4(file: FileIO, size: int, buffer: bytearray) -> _Read:
    """Blocks of one E8M0 scale (0xFF is NaN) and 16 bytes of 4-bit floats."""
    finite, nonzero = True, False
    for chunk in _chunks(file, size, buffer, 17):
        rows = np.frombuffer(chunk, np.uint8).reshape(-1, 17)
        finite = finite and not bool((rows[:, 0] == 0xFF).any())
        nonzero = nonzero or bool((rows[:, 1:] & 0x77).any())
    return _Read(finite, nonzero)
