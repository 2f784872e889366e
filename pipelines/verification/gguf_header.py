"""A strict reader of GGUF headers: bounds before allocation, and every byte accounted for.

The format (ggml, docs/gguf.md): magic, version, tensor count, key count; keys with typed values;
tensor descriptions; padding to the alignment; data. The C++ readers have a history of overflows,
so a file is judged here before an engine sees it.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import MalformedFile
from pipelines.verification.findings import quoted

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 100_000
MAX_TENSORS = 1_000_000
MAX_ARRAY_STRINGS = 4_000_000  # the largest vocabularies have 300,000 tokens
MAX_STRING_BYTES = 16 * 1024 * 1024
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 65_536
MAX_NAME_BYTES = 63  # GGML_MAX_NAME, with its final zero
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]+")
_TOKENS = "tokenizer.ggml.tokens"

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9

# ggml type id: name, elements in a block, bytes of a block (ggml.h and ggml-common.h).
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor; `shape` as GGUF writes it (fastest dimension first), `offset` from file start."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """Keys with scalar values, lengths of arrays, and tensors in the order of their data."""

    keys: dict[str, Scalar]
    array_lengths: dict[str, int]
    tensors: tuple[GgufTensor, ...]
    duplicate_token: str | None = None  # the first token that stands twice in the vocabulary

    def histogram(self) -> dict[str, int]:
        """Tensor type to number of tensors: the declared file type may say otherwise."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.type] = counts.get(tensor.type, 0) + 1
        return dict(sorted(counts.items()))


def read_gguf(path: Path) -> GgufHeader:
    """Read and check a header; raises MalformedFile with the rule that is broken."""
    size = path.stat().st_size
    if size < 24:
        raise MalformedFile(path.name, "gguf.truncated", f"it has only {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(data, path.name).header()


class _Reader:
    """A cursor over the file that refuses to leave it."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data, self.name, self.at = data, name, 0
        self.duplicate: str | None = None

    def fail(self, rule: str, fact: str) -> MalformedFile:
        return MalformedFile(self.name, f"gguf.{rule}", fact)

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self.fail("truncated", f"it ends inside a field of {count} bytes at {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def text(self) -> str:
        length = self.number("Q")
        if length > MAX_STRING_BYTES:
            raise self.fail("string-length", f"a string claims {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.fail("encoding", f"a string is not UTF-8 ({error})") from error

    def header(self) -> GgufHeader:
        if self.take(4) != MAGIC:
            raise self.fail("magic", "it does not start with GGUF")
        version = self.number("I")
        if version not in VERSIONS:
            raise self.fail("version", f"its version is {version}, known are {VERSIONS}")
        tensor_count, key_count = self.number("Q"), self.number("Q")
        if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
            fact = f"it claims {tensor_count} tensors and {key_count} keys"
            raise self.fail("counts", fact)
        keys, lengths = self.pairs(key_count)
        descriptions = [self.description() for _ in range(tensor_count)]
        tensors = self.layout(descriptions, self.alignment(keys))
        return GgufHeader(keys, lengths, tensors, self.duplicate)

    def pairs(self, count: int) -> tuple[dict[str, Scalar], dict[str, int]]:
        keys: dict[str, Scalar] = {}
        lengths: dict[str, int] = {}
        for _ in range(count):
            key = self.text()
            if not key or key in keys or key in lengths:
                raise self.fail("duplicate-key", f"the key {quoted(key)} is empty or stands twice")
            if not _PRINTABLE.fullmatch(key):
                raise self.fail("key", f"{quoted(key)} is no name for a key")
            kind = self.number("I")
            if kind == _ARRAY:
                lengths[key] = self.skip_array(key)
            else:
                keys[key] = self.scalar(kind, key)
        return keys, lengths

    def scalar(self, kind: int, key: str) -> Scalar:
        if kind == _STRING:
            return self.text()
        if kind not in _SCALARS:
            raise self.fail("value-type", f"{quoted(key)} has the unknown type {kind}")
        if kind == 7 and self.data[self.at : self.at + 1] not in (b"\x00", b"\x01"):
            raise self.fail("value-type", f"{quoted(key)} is a truth value other than 0 and 1")
        return self.number(_SCALARS[kind])

    def skip_array(self, key: str) -> int:
        kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            if count > MAX_ARRAY_STRINGS:
                raise self.fail("counts", f"{quoted(key)} claims {count} strings")
            seen: set[str] = set()
            for _ in range(count):
                token = self.text()
                if key == _TOKENS and token in seen and self.duplicate is None:
                    self.duplicate = token
                if key == _TOKENS:
                    seen.add(token)
        elif kind in _SCALARS:
            width = struct.calcsize(f"<{_SCALARS[kind]}")
            if count * width > len(self.data) - self.at:
                raise self.fail("truncated", f"{quoted(key)} claims {count} values")
            self.at += count * width
        else:
            raise self.fail("value-type", f"{quoted(key)} is an array of the unknown type {kind}")
        return count

    def description(self) -> tuple[str, str, tuple[int, ...], int, int]:
        name = self.text()
        shown = quoted(name)
        dimensions = self.number("I")
        if not _PRINTABLE.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES:
            raise self.fail("tensor-name", f"{shown} is no name for a tensor")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.fail("shape", f"{shown} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        kind, offset = self.number("I"), self.number("Q")
        if kind not in TYPES:
            raise self.fail("tensor-type", f"{shown} has the unknown type {kind}")
        type_name, block, block_bytes = TYPES[kind]
        if 0 in shape or math.prod(shape) >= 2**63 or shape[0] % block:
            raise self.fail("shape", f"{shown} of type {type_name} has the shape {shape}")
        return name, type_name, shape, offset, math.prod(shape) // block * block_bytes

    def alignment(self, keys: dict[str, Scalar]) -> int:
        value = keys.get("general.alignment", 32)
        if type(value) is not int or not 8 <= value <= MAX_ALIGNMENT or value & (value - 1):
            raise self.fail("alignment", f"its alignment is {quoted(value)}")
        return value

    def layout(
        self, found: list[tuple[str, str, tuple[int, ...], int, int]], alignment: int
    ) -> tuple[GgufTensor, ...]:
        """Tensors must tile the data in steps of the alignment, with zeros between them."""
        names = {name for name, *_ in found}
        if len(names) != len(found):
            raise self.fail("duplicate-tensor", "two tensors have one name")
        start = self.at + -self.at % alignment
        expected, tensors = 0, []
        for name, kind, shape, offset, size in sorted(found, key=lambda item: item[3]):
            if offset != expected:
                rule = "overlap" if offset < expected else "hole"
                raise self.fail(rule, f"{quoted(name)} lies at {offset}, expected {expected}")
            tensors.append(GgufTensor(name, kind, shape, start + offset, size))
            expected = offset + size + -(offset + size) % alignment
        last = tensors[-1].offset + tensors[-1].size_bytes if tensors else self.at
        if len(self.data) < last:
            raise self.fail("truncated", f"its tensors need {last - len(self.data)} bytes more")
        if len(self.data) > max(last, start + expected):
            surplus = len(self.data) - start - expected
            raise self.fail("trailing-bytes", f"{surplus} bytes follow the last tensor")
        ends = [self.at, *(tensor.offset + tensor.size_bytes for tensor in tensors)]
        starts = [start, *(start + -(-(end - start) // alignment) * alignment for end in ends[1:])]
        if any(any(self.data[a:b]) for a, b in zip(ends, starts, strict=True)):
            raise self.fail("padding", "bytes between its tensors are not zero")
        return tuple(tensors)
