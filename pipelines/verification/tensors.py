"""The numbers themselves: NaN, infinity and all-zero matrices, in one pass of bounded memory.

Floats are compared as integers: with the sign bit masked away, the largest bit pattern of a tensor
says both whether it holds an infinity or NaN (exponent all ones) and whether it is all zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from pipelines.progress import report
from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, refusal
from pipelines.verification.gguf_header import TYPES, GgufTensor
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


def check(contents: Contents) -> Iterator[Finding]:
    """Read every float tensor of the folder once; a type that cannot be judged is refused."""
    total = sum(t.size_bytes for header in contents.safetensors.values() for t in header.tensors)
    total += sum(t.size_bytes for header in contents.ggufs.values() for t in header.tensors)
    done = 0
    for name, header in contents.safetensors.items():
        yield from _check_file(contents.root / name, name, header.tensors)
        done += sum(tensor.size_bytes for tensor in header.tensors)
        report(done / 1e6, total / 1e6, "MB", "checking numbers")
    for name, gguf in contents.ggufs.items():
        yield from _check_file(contents.root / name, name, gguf.tensors)
        done += sum(tensor.size_bytes for tensor in gguf.tensors)
        report(done / 1e6, total / 1e6, "MB", "checking numbers")


def _check_file(
    path: Path, name: str, tensors: tuple[Tensor, ...] | tuple[GgufTensor, ...]
) -> Iterator[Finding]:
    broken: list[str] = []
    empty: list[str] = []
    unknown: list[str] = []
    buffer = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        for tensor in tensors:
            kind = tensor.dtype if isinstance(tensor, Tensor) else tensor.type
            if kind in _NEVER_NAN:
                continue
            file.seek(tensor.offset)
            judged = _judge(file, kind, tensor.size_bytes, buffer)
            if judged is None:
                unknown.append(tensor.name)
                continue
            finite, nonzero = judged
            if not finite:
                broken.append(tensor.name)
            elif not nonzero and _must_not_be_zero(tensor):
                empty.append(tensor.name)
    if broken:
        yield refusal("weights.not-finite", name, f"NaN or infinity in {listed(broken)}", _REMEDY)
    if empty:
        yield refusal("weights.all-zero", name, f"nothing but zeros in {listed(empty)}", _REMEDY)
    if unknown:
        fact = f"the numbers of {listed(unknown)} are of a type that this check cannot read"
        yield refusal("weights.not-judged", name, fact, "Take a build in a common type.")


def _must_not_be_zero(tensor: Tensor | GgufTensor) -> bool:
    """Biases start at zero and may stay there; a matrix of zeros is damage."""
    shape = [size for size in tensor.shape if size != 1]
    return len(shape) > 1 and tensor.elements > 0 and "bias" not in tensor.name.rsplit(".", 1)[-1]


def _judge(file: FileIO, kind: str, size: int, buffer: bytearray) -> tuple[bool, bool] | None:
    """(all finite, anything nonzero), or None for a type that is not known here."""
    if kind in _FLOATS:
        return _floats(file, _FLOATS[kind], size, buffer)
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


def _floats(file: FileIO, kind: _Float, size: int, buffer: bytearray) -> tuple[bool, bool]:
    finite, nonzero = True, not kind.zero_is_zero
    dtype = np.dtype(kind.unsigned)
    mask = dtype.type(kind.mask)
    scratch = np.empty(len(buffer) // dtype.itemsize, dtype)
    for chunk in _chunks(file, size, buffer, dtype.itemsize):
        values = np.frombuffer(chunk, dtype)
        peak = int(np.bitwise_and(values, mask, out=scratch[: values.size]).max())
        finite = finite and peak < kind.limit
        nonzero = nonzero or peak > 0
    return finite, nonzero


def _bytes(file: FileIO, nan: int, size: int, buffer: bytearray) -> tuple[bool, bool]:
    finite, nonzero = True, False
    for chunk in _chunks(file, size, buffer, 1):
        values = np.frombuffer(chunk, np.uint8)
        finite = finite and not bool((values == nan).any())
        nonzero = nonzero or bool(values.any())
    return finite, nonzero


def _blocks(file: FileIO, kind: str, size: int, buffer: bytearray) -> tuple[bool, bool]:
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
    return finite, nonzero


def _mxfp4(file: FileIO, size: int, buffer: bytearray) -> tuple[bool, bool]:
    """Blocks of one E8M0 scale (0xFF is NaN) and 16 bytes of 4-bit floats."""
    finite, nonzero = True, False
    for chunk in _chunks(file, size, buffer, 17):
        rows = np.frombuffer(chunk, np.uint8).reshape(-1, 17)
        finite = finite and not bool((rows[:, 0] == 0xFF).any())
        nonzero = nonzero or bool((rows[:, 1:] & 0x77).any())
    return finite, nonzero
