"""Default deny: what a file is decides, and a name can only make things worse."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.verification.formats import check, identify, is_sentencepiece
from pipelines.verification.policy import VerificationPolicy


class Harmless:
    """Pickles to a call, and is never unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return str, ("inert",)


def a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Harmless()))
    return buffer.getvalue()


def a_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


def an_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def a_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = b"\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00"
    pixels = zlib.compress(b"\x00\x00")
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def a_sentencepiece_model() -> bytes:
    piece = b"\x0a\x02ab\x15\x00\x00\x80\xbf"
    return b"\x0a" + bytes([len(piece)]) + piece + b"\x12\x02\x18\x01"


HARMFUL = {
    "pickle-2": (pickle.dumps(Harmless(), 2), "pickle"),
    "pickle-4": (pickle.dumps(Harmless(), 4), "pickle"),
    "pickle-0": (pickle.dumps(Harmless(), 0), "pickle"),
    "torch": (a_zip(), "zip"),
    "gzip": (gzip.compress(b"{}"), "gzip"),
    "tar": (a_tar(), "tar"),
    "numpy": (an_array(), "numpy"),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(60), "executable"),
    "windows": (b"MZ\x90\x00" + bytes(60), "executable"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(60), "hdf5"),
    "script": (b"#!/bin/sh\necho\n", "script"),
    "unknown": (bytes(range(256)), "unknown"),
    "latin": ("größe".encode("latin-1"), "unknown"),
    "image and zip": (a_png() + a_zip(), "image-with-more"),
}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "README.md", "a.bin", "a.png"]
)
@pytest.mark.parametrize("kind", HARMFUL)
def test_harmful_bytes_are_refused_under_every_name(tmp_path: Path, kind: str, name: str) -> None:
    data, expected = HARMFUL[kind]
    path = tmp_path / name
    path.write_bytes(data)
    assert identify(path) == expected
    rules = [finding.rule for finding in check(path, name, expected, VerificationPolicy())]
    assert rules == [f"format.{expected}"]


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("config.json", b"{}", "json"),
        ("chat_template.jinja", b"{{ x }}", "template"),
        ("merges.txt", b"#version: 0.2\na b\n", "text"),
        ("README.md", "größe ☃\n".encode(), "text"),
        ("LICENSE", b"words", "text"),
        ("LICENSE-APACHE-2.0", b"words", "text"),
        ("LICENSE.APACHE", b"words", "text"),
        (".gitattributes", b"*.bin filter=lfs\n", "text"),
        ("tokenizer.model", a_sentencepiece_model(), "sentencepiece"),
        ("tokenizer.model", b"YQ== 0\nYg== 1\n", "text"),
        ("picture.png", a_png(), "image"),
        ("empty.txt", b"", "text"),
        ("vocab.txt", b"chi\nthere\ncis\n.\n", "text"),
    ],
)
def test_usual_files_are_admitted(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert identify(path) == kind
    assert list(check(path, name, kind, VerificationPolicy())) == []


@pytest.mark.parametrize(
    "name", ["modeling.py", "setup.cfg", "evil.pth", "run.sh", "a.html", "x.so"]
)
def test_scripts_and_their_configuration_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("import os\n")
    assert [f.rule for f in check(path, name, identify(path), VerificationPolicy())] == [
        "format.script"
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pytorch_model.bin", b"words"),
        ("model.safetensors", b"words"),
        ("model.gguf", b"words"),
        ("model.bin", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"),
        ("tokenizer.json", a_png()),
        ("weights.xyz", b"words"),
    ],
)
def test_a_name_that_contradicts_the_bytes_is_refused(
    tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    rules = [f.rule for f in check(path, name, identify(path), VerificationPolicy())]
    assert rules == ["format.name"]


def test_a_format_that_the_policy_leaves_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    policy = VerificationPolicy(allowed_formats=("safetensors", "json"))
    assert [f.rule for f in check(path, path.name, identify(path), policy)] == ["format.gguf"]


@given(st.binary(max_size=400))
def test_any_bytes_are_identified(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data)
    assert identify(path)


@given(st.text(alphabet="cos\nRtp0.(S'i1)V}u", max_size=60))
def test_any_text_near_a_pickle_is_identified(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.txt"
    path.write_text(text)
    assert identify(path) in ("text", "pickle")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_sentencepiece_model_or_not(data: bytes) -> None:
    assert is_sentencepiece(data) in (True, False)
