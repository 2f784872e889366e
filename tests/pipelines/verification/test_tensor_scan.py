"""NaN and zero scans of types that numpy has no name for, checked against ml_dtypes or by hand."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import Rules

from pipelines.verification import tensors
from pipelines.verification.contents import Contents
from pipelines.verification.gguf_header import GgufHeader, GgufTensor
from pipelines.verification.safetensors_header import read_safetensors


def scan(folder: Path, dtype: str, raw: bytes, shape: list[int]) -> set[str]:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(raw)]}
    header = json.dumps({"w": entry}).encode()
    path = folder / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw)
    contents = Contents(root=folder, safetensors={path.name: read_safetensors(path)})
    return {finding.rule for finding in tensors.check(contents)}


# dtype, bytes of one ordinary value, bytes of one value that is NaN or infinite
VALUES = [
    ("BF16", b"\x80\x3f", b"\xc0\x7f"),
    ("BF16", b"\x80\x3f", b"\x80\xff"),
    ("F16", b"\x00\x3c", b"\x00\x7c"),
    ("F32", b"\x00\x00\x80\x3f", b"\x00\x00\xc0\x7f"),
    ("F64", bytes(6) + b"\xf0\x3f", bytes(6) + b"\xf0\x7f"),
    ("F8_E5M2", b"\x3c", b"\x7c"),
    ("F8_E4M3", b"\x38", b"\xff"),
    ("F8_E8M0", b"\x7f", b"\xff"),
    ("F8_E4M3FNUZ", b"\x38", b"\x80"),
    ("F8_E5M2FNUZ", b"\x3c", b"\x80"),
]


@pytest.mark.parametrize(("dtype", "fine", "broken"), VALUES)
def test_one_value_that_is_not_finite_is_found(
    tmp_path: Path, dtype: str, fine: bytes, broken: bytes
) -> None:
    assert scan(tmp_path, dtype, fine * 32, [4, 8]) == set()
    assert scan(tmp_path, dtype, fine * 31 + broken, [4, 8]) == {"weights.not-finite"}


def test_a_value_beyond_the_first_chunk_is_found(tmp_path: Path) -> None:
    count = 3 * tensors.CHUNK_BYTES // 2 + 5
    values = np.ones(count, np.float32)
    values[-1] = np.nan
    assert scan(tmp_path, "F32", values.tobytes(), [count]) == {"weights.not-finite"}


def test_integers_may_be_anything(tmp_path: Path) -> None:
    assert scan(tmp_path, "I64", bytes(64), [2, 4]) == set()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"])
def test_scales_of_quantised_blocks_are_read(tmp_path: Path, kind: str) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32)

    def judge(raw: bytes) -> set[str]:
        path = tmp_path / "x.gguf"
        path.write_bytes(raw)
        tensor = GgufTensor("w", kind, (512, 2), 0, len(raw))
        header = GgufHeader({}, {}, (tensor,))
        contents = Contents(root=tmp_path, ggufs={path.name: header})
        return {finding.rule for finding in tensors.check(contents)}

    raw = gguf.quants.quantize(values, quantisation).tobytes()
    assert judge(raw) == set()
    values[1, 300] = np.inf
    with np.errstate(all="ignore"):
        assert judge(gguf.quants.quantize(values, quantisation).tobytes()) == {"weights.not-finite"}
        zeros = gguf.quants.quantize(np.zeros_like(values), quantisation).tobytes()
    assert judge(zeros) == {"weights.all-zero"}


def test_a_type_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(bytes(56))
    header = GgufHeader({}, {}, (GgufTensor("w", "IQ1_M", (256,), 0, 56),))
    contents = Contents(root=tmp_path, ggufs={"x.gguf": header})
    assert {finding.rule for finding in tensors.check(contents)} == {"weights.not-judged"}


def test_honest_weights_are_scanned_in_silence(model: Path, refusals: Rules) -> None:
    assert refusals(model) == set()
