"""The strict GGUF reader: agrees with the gguf package on honest files, refuses the rest."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import MalformedFile
from pipelines.verification.gguf_header import TYPES, read_gguf


def write_gguf(path: Path) -> Path:
    """A small honest file with text, numbers, arrays and two types of tensor."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_license("apache-2.0")
    writer.add_context_length(64)
    writer.add_token_list(["a", "b", "c"])
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    quantised = gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.w", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf").read_bytes()


def rule_of(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(MalformedFile) as caught:
        read_gguf(path)
    return caught.value.rule.removeprefix("gguf.")


def test_type_table_is_that_of_the_gguf_package() -> None:
    known = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert known == TYPES


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    header = read_gguf(write_gguf(tmp_path / "model.gguf"))
    assert header.keys["general.license"] == "apache-2.0"
    assert header.keys["llama.context_length"] == 64
    assert header.array_lengths["tokenizer.ggml.tokens"] == 3
    assert header.histogram() == {"F32": 1, "Q8_0": 1}
    assert {tensor.name: tensor.elements for tensor in header.tensors} == {
        "token_embd.weight": 96,
        "blk.0.w": 128,
    }


def test_refuses_other_magic_version_and_counts(tmp_path: Path, honest: bytes) -> None:
    path = tmp_path / "model.gguf"
    assert rule_of(path, b"GGML" + honest[4:]) == "magic"
    assert rule_of(path, honest[:4] + struct.pack("<I", 1) + honest[8:]) == "version"
    assert rule_of(path, honest[:4] + struct.pack(">I", 3) + honest[8:]) == "version"
    assert rule_of(path, honest[:8] + struct.pack("<Q", 2**62) + honest[16:]) == "counts"
    assert rule_of(path, honest[:16] + struct.pack("<Q", 2**62) + honest[24:]) == "counts"
    assert rule_of(path, honest[:24] + struct.pack("<Q", 2**62) + honest[32:]) == "string-length"


def test_refuses_truncated_and_trailing_bytes(tmp_path: Path, honest: bytes) -> None:
    path = tmp_path / "model.gguf"
    assert rule_of(path, honest[:10]) == "truncated"
    assert rule_of(path, honest[:100]) == "truncated"
    assert rule_of(path, honest[: -len(honest) // 4]) == "truncated"
    assert rule_of(path, honest + b"\x00" * 64) == "trailing-bytes"


def test_refuses_two_keys_of_one_name(tmp_path: Path, honest: bytes) -> None:
    twice = honest.replace(b"llama.context_length", b"general.architecture", 1)
    assert rule_of(tmp_path / "model.gguf", twice) == "duplicate-key"


def test_refuses_tensors_that_overlap(tmp_path: Path, honest: bytes) -> None:
    at = honest.index(b"blk.0.w") + len(b"blk.0.w") + 4 + 16 + 4
    moved = honest[:at] + struct.pack("<Q", 0) + honest[at + 8 :]
    assert rule_of(tmp_path / "model.gguf", moved) == "overlap"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_a_header_is_read_or_refused(
    tmp_path: Path, honest: bytes, data: st.DataObject
) -> None:
    end = honest.index(b"blk.0.w") + 40
    broken = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, end))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.gguf"
    path.write_bytes(broken[: data.draw(st.integers(0, len(broken)))])
    try:
        read_gguf(path)
    except MalformedFile:
        return
