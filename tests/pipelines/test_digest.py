from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipelines.canonical import atomic_path, canonical_json
from pipelines.digest import build_manifest, check_digest, weight_digest
from pipelines.errors import DigestMismatch, WrongKindOfPath


def test_weight_digest_matches_the_published_vector(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    digest = weight_digest(build_manifest(tmp_path))
    assert digest == "8e93ddd6391fb05423e98b54896b1aaf8f552fb2d5d515ce607e651897a8e577"
    manifest = (
        '{"files":[{"path":"a.txt","sha256":'
        '"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03","size_bytes":6}]}'
    )
    assert hashlib.sha256(manifest.encode()).hexdigest() == digest


def test_weight_digest_names_every_file_hidden_ones_too(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hook").write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_text("y")
    assert [entry.path for entry in build_manifest(tmp_path)] == [".git/hook", "sub/w.bin"]


def test_weight_digest_is_the_same_for_both_unicode_forms_of_a_name(tmp_path: Path) -> None:
    digests = []
    for index, name in enumerate(["caf\u00e9", "cafe\u0301"]):
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / name).write_text("x")
        digests.append(weight_digest(build_manifest(folder)))
    assert digests[0] == digests[1]


def test_two_names_that_are_one_in_nfc_are_refused(tmp_path: Path) -> None:
    for name in ["caf\u00e9", "cafe\u0301"]:
        (tmp_path / name).write_text("x")
    with pytest.raises(WrongKindOfPath, match="normal form"):
        build_manifest(tmp_path)


def test_a_link_among_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(WrongKindOfPath, match="link"):
        build_manifest(tmp_path)


def test_a_pipe_among_weights_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WrongKindOfPath, match="pipe"):
        build_manifest(tmp_path)


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("x")
    with pytest.raises(WrongKindOfPath, match=r"model: a folder of weights.*there is a file"):
        build_manifest(path)


def test_check_digest_refuses_one_changed_byte(tmp_path: Path) -> None:
    file = tmp_path / "w"
    file.write_bytes(bytes(1000))
    digest = weight_digest(build_manifest(tmp_path))
    check_digest(tmp_path, digest)
    file.write_bytes(bytes(999) + b"\1")
    with pytest.raises(DigestMismatch, match=digest):
        check_digest(tmp_path, digest)


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})


def test_a_failed_write_leaves_neither_target_nor_temporary_file(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "record.json") as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
