"""Whatever bytes come, the readers of headers raise MalformedFile or nothing."""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import MalformedFile
from pipelines.verification.gguf_header import read_gguf
from pipelines.verification.gguf_model import judge_gguf
from pipelines.verification.safetensors_header import read_safetensors
from pipelines.verification.strict_json import parse_strict
from tests.corpus import bases
from tests.corpus.gguf_bytes import honest_gguf

FUZZ_S = 600
EDITS = st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=9)), max_size=6)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    bases.single(folder / "single")
    weights = (folder / "single" / "model.safetensors").read_bytes()
    return weights, honest_gguf().build(), folder / "file"


def changed(data: bytes, edits: list[tuple[int, bytes]], cut: int) -> bytes:
    body = bytearray(data)
    for at, new in edits:
        at %= len(body)
        body[at : at + len(new)] = new
    return bytes(body[: cut or None])


def read(path: Path, data: bytes, header: bytes) -> None:
    path.write_bytes(data)
    with suppress(MalformedFile):
        read_safetensors(path)
    path.write_bytes(header)
    with suppress(MalformedFile):
        list(judge_gguf(read_gguf(path)))


@given(edits=EDITS, cut=st.integers(0, 9000))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_changed_headers_are_read_or_refused(
    seeds: tuple[bytes, bytes, Path], edits: list[tuple[int, bytes]], cut: int
) -> None:
    weights, gguf, path = seeds
    read(path, changed(weights, edits, cut), changed(gguf, edits, cut))


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    with suppress(MalformedFile):
        parse_strict(data, "x.json")


@given(header=st.binary(max_size=300), length=st.integers(0, 2**64 - 1))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_length_and_header_are_read_or_refused(
    seeds: tuple[bytes, bytes, Path], header: bytes, length: int
) -> None:
    path = seeds[2]
    read(path, struct.pack("<Q", length) + header, b"GGUF" + struct.pack("<I", 3) + header)


@pytest.mark.long
@pytest.mark.timeout(FUZZ_S + 120)
def test_ten_minutes_of_changed_headers_crash_nothing(seeds: tuple[bytes, bytes, Path]) -> None:
    import random

    weights, gguf, path = seeds
    draw = random.Random(4471)
    end = time.monotonic() + FUZZ_S
    while time.monotonic() < end:
        edits = [
            (draw.randrange(7000), draw.randbytes(draw.randrange(1, 9)))
            for _ in range(draw.randrange(1, 6))
        ]
        cut = draw.choice((0, 0, 0, draw.randrange(1, 9000)))
        read(path, changed(weights, edits, cut), changed(gguf, edits, cut))
        with suppress(MalformedFile):
            parse_strict(changed(weights[8:2000], edits, cut), "x.json")
