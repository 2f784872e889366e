"""The strict safetensors reader: every byte accounted for, nothing but MalformedFile on junk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pipelines.errors import MalformedFile
from pipelines.verification.safetensors_header import DTYPE_BITS, parse_header, read_safetensors

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def rule_of(header: bytes | dict[str, Any], data_bytes: int = 8) -> str:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(MalformedFile) as caught:
        parse_header(raw, data_bytes, "x.safetensors")
    return caught.value.rule.removeprefix("safetensors.")


def test_reads_what_the_official_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {"b": np.ones((2, 3), np.float16), "a": np.zeros((0, 4), np.float32)}
    save_file(arrays, path, metadata={"format": "pt"})
    header = read_safetensors(path)
    assert {t.name: (t.dtype, t.shape) for t in header.tensors} == {
        "a": ("F32", (0, 4)),
        "b": ("F16", (2, 3)),
    }
    assert header.metadata == {"format": "pt"}
    assert max(t.offset + t.size_bytes for t in header.tensors) == path.stat().st_size


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"dtype": "F99"}, "dtype"),
        ({"dtype": ["F32"]}, "dtype"),
        ({"shape": [-2]}, "shape"),
        ({"shape": [True, 2]}, "shape"),
        ({"shape": [2.0]}, "shape"),
        ({"shape": [2**64]}, "shape"),
        ({"shape": [1] * 99}, "shape"),
        ({"shape": [3]}, "tensor-size"),
        ({"shape": [2**62, 2**62]}, "tensor-size"),
        ({"data_offsets": [8, 0]}, "offsets"),
        ({"data_offsets": [0, 8, 8]}, "offsets"),
        ({"data_offsets": [-8, 0]}, "offsets"),
        ({"extra": 1}, "entry"),
    ],
)
def test_refuses_an_entry_that_breaks_the_format(change: dict[str, Any], rule: str) -> None:
    assert rule_of({"a": {**GOOD["a"], **change}}) == rule


def test_refuses_data_that_overlaps_has_holes_or_trails() -> None:
    def two(begin: int, end: int) -> dict[str, Any]:
        return {**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [begin, end]}}

    assert parse_header(json.dumps(two(8, 16)).encode(), 16, "x").tensors[1].name == "b"
    assert rule_of(two(4, 12), 12) == "overlap"
    assert rule_of(two(0, 8), 8) == "overlap"
    assert rule_of(two(12, 20), 20) == "hole"
    assert rule_of(two(8, 16), 12) == "truncated"
    assert rule_of(two(8, 16), 17) == "trailing-bytes"
    assert rule_of({}, 1) == "trailing-bytes"


def test_refuses_duplicate_keys_at_any_depth() -> None:
    entry = json.dumps(GOOD["a"])
    assert rule_of(f'{{"a": {entry}, "a": {entry}}}'.encode()) == "duplicate-key"
    inner = entry.replace('"shape"', '"dtype": "F32", "shape"')
    assert rule_of(f'{{"a": {inner}}}'.encode()) == "duplicate-key"


def test_refuses_headers_that_are_no_object_of_strings_and_tensors() -> None:
    assert rule_of(b"[]") == "header-start"
    assert rule_of(b" {}") == "header-start"
    assert rule_of(b'{"a": 1}') == "entry"
    assert rule_of(b'{"a"') == "syntax"
    assert rule_of(b'{"\xff": 1}') == "encoding"
    assert rule_of(b'{"__metadata__": {"a": 1}}') == "metadata"
    assert rule_of({"": GOOD["a"]}) == "tensor-name"
    assert rule_of({"a\n": GOOD["a"]}) == "tensor-name"
    assert rule_of(b'{"a":' * 100_000) == "depth"


@pytest.mark.parametrize("length", [0, 1, 9, 2**31, 2**63, 2**64 - 1])
def test_refuses_a_header_length_that_the_file_cannot_hold(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(MalformedFile, match="header claims"):
        read_safetensors(path)


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x02\x00\x00\x00\x00\x00\x00"])
def test_refuses_a_file_shorter_than_its_length_field(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(MalformedFile):
        read_safetensors(path)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*DTYPE_BITS, "F32 "]) | json_values,
        "shape": st.lists(st.integers(-2, 6), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-2, 40), max_size=3) | json_values,
    },
)


@given(st.dictionaries(st.text(max_size=6), entries | json_values, max_size=4), st.integers(0, 64))
def test_any_json_header_is_read_or_refused(document: dict[str, Any], data_bytes: int) -> None:
    try:
        header = parse_header(json.dumps(document).encode(), data_bytes, "x")
    except MalformedFile:
        return
    assert sum(tensor.size_bytes for tensor in header.tensors) == data_bytes


@given(st.binary(max_size=80), st.integers(0, 64))
def test_any_bytes_are_read_or_refused(raw: bytes, data_bytes: int) -> None:
    try:
        parse_header(raw, data_bytes, "x")
    except MalformedFile:
        return
