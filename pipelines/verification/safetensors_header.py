"""A strict reader of safetensors headers.

The format (huggingface/safetensors, README "Format"): 8 bytes little-endian length N, N bytes of
JSON, then the data; each tensor has a dtype, a shape and two offsets into the data. The official
parser bounds and orders the offsets; this one also refuses duplicate keys at any depth, unknown
members and data that no tensor owns, so that every byte of an accepted file is accounted for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import MalformedFile
from pipelines.verification.findings import quoted
from pipelines.verification.strict_json import parse_strict

MAX_HEADER_BYTES = 32 * 1024 * 1024  # the largest published headers are near 12 MB
MAX_DIMENSIONS = 16
LENGTH_BYTES = 8

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip

_FORMATS = frozenset({"pt", "tf", "flax", "mlx", "np", "numpy", "jax"})  # who wrote the file
_PRINTABLE_NAME = re.compile(r"[^\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `offset` is from the start of the file, `shape` in elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """All tensors of one file, in the order of their data."""

    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]


def read_safetensors(path: Path) -> Header:
    """Read and check a header; raises MalformedFile with the rule that is broken.

    Reads at most MAX_HEADER_BYTES; the data is not touched.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or not 2 <= length <= size - LENGTH_BYTES:
            fact = f"its header claims {length} bytes, the file has {size}"
            raise MalformedFile(path.name, "safetensors.header-length", fact)
        if length > MAX_HEADER_BYTES:
            fact = f"its header claims {length} bytes, the limit is {MAX_HEADER_BYTES}"
            raise MalformedFile(path.name, "safetensors.header-length", fact)
        return parse_header(file.read(length), size - LENGTH_BYTES - length, path.name)


def parse_header(header: bytes, data_bytes: int, name: str) -> Header:
    """Check the header's JSON against the number of data bytes that follow it."""
    if not header.startswith(b"{"):
        raise MalformedFile(name, "safetensors.header-start", "its header does not start with '{'")
    body = header.rstrip(b" ")
    if body[-1:] in b"\t\r\n\x00":
        fact = "its header is padded with something other than spaces"
        raise MalformedFile(name, "safetensors.header-padding", fact)
    document = parse_strict(body, name, prefix="safetensors")
    if not isinstance(document, dict):
        raise MalformedFile(name, "safetensors.syntax", "its header is not an object")
    metadata = _metadata(document.pop("__metadata__", {}), name)
    start = LENGTH_BYTES + len(header)
    tensors = [_tensor(key, entry, start, name) for key, entry in document.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    _check_layout(tensors, start, data_bytes, name)
    return Header(tuple(tensors), metadata)


def _metadata(value: Any, name: str) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        if (written_by := value.get("format", "pt")) not in _FORMATS:
            fact = f"__metadata__ names the unknown format {quoted(written_by)}"
            raise MalformedFile(name, "safetensors.metadata", fact)
        return value
    raise MalformedFile(name, "safetensors.metadata", "__metadata__ is not a map of strings")


def _tensor(key: str, entry: Any, start: int, name: str) -> Tensor:
    shown = quoted(key)
    if not _PRINTABLE_NAME.fullmatch(key):
        raise MalformedFile(name, "safetensors.tensor-name", f"{shown} is no name for a tensor")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        fact = f"{shown} does not have exactly dtype, shape and data_offsets"
        raise MalformedFile(name, "safetensors.entry", fact)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        fact = f"{shown} has the unknown dtype {quoted(dtype)}"
        raise MalformedFile(name, "safetensors.dtype", fact)
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise MalformedFile(name, "safetensors.shape", f"{shown} has the shape {quoted(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        fact = f"{shown} has the offsets {quoted(offsets)}"
        raise MalformedFile(name, "safetensors.offsets", fact)
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    size = offsets[1] - offsets[0]
    if bits != size * 8:
        fact = f"{shown} needs {bits / 8:g} bytes for its shape, its offsets give {size}"
        raise MalformedFile(name, "safetensors.tensor-size", fact)
    return Tensor(key, dtype, tuple(shape), start + offsets[0], size)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 2**63 for item in value
    )


def _check_layout(tensors: list[Tensor], start: int, data_bytes: int, name: str) -> None:
    """Tensors in order of offset must tile the data exactly."""
    end = start
    for tensor in tensors:
        shown = quoted(tensor.name)
        if tensor.offset < end:
            fact = f"{shown} overlaps the tensor before it by {end - tensor.offset} bytes"
            raise MalformedFile(name, "safetensors.overlap", fact)
        if tensor.offset > end:
            fact = f"{tensor.offset - end} bytes before {shown} belong to no tensor"
            raise MalformedFile(name, "safetensors.hole", fact)
        end = tensor.offset + tensor.size_bytes
    missing = end - start - data_bytes
    if missing > 0:
        fact = f"its tensors need {missing} bytes more than the file has"
        raise MalformedFile(name, "safetensors.truncated", fact)
    if missing < 0:
        fact = f"{-missing} bytes after the last tensor belong to none"
        raise MalformedFile(name, "safetensors.trailing-bytes", fact)
