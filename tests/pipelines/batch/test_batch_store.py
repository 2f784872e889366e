"""Stores: of all that create a name, one is told so; on a folder and on a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from finishing import finish, rows_of

from pipelines.batch.export import export_jsonl
from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.status import status
from pipelines.batch.store import FolderStore, OutputStore, open_store
from pipelines.errors import ConfigError, NoSpaceLeft, StoreFailed

ROUNDS, WRITERS = 5, 8


def race(open_one: Callable[[], OutputStore]) -> None:
    """Rounds of writers on one name: one winner each, whose bytes are there."""
    stores = [open_one() for _ in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(ROUNDS):
            name = f"shards/{number}"
            data = [bytes([writer]) * 50_000 for writer in range(WRITERS)]
            won = list(pool.map(lambda s, d, n=name: s.create(n, d), stores, data))
            assert sum(won) == 1
            assert stores[0].read(name) == data[won.index(True)]


def test_one_of_many_creators_wins_on_a_folder(tmp_path: Path) -> None:
    race(lambda: FolderStore(tmp_path / "out"))
    assert sorted(FolderStore(tmp_path / "out").names()) == [f"shards/{n}" for n in range(ROUNDS)]
    assert not list(tmp_path.rglob("*.partial"))


def test_one_of_many_creators_wins_on_s3(s3_output: str) -> None:
    race(lambda: open_store(s3_output))
    assert sorted(open_store(s3_output).names()) == [f"shards/{n}" for n in range(ROUNDS)]


def test_a_store_reads_lists_and_replaces(tmp_path: Path, s3_output: str) -> None:
    for store in (open_store(str(tmp_path / "out")), open_store(s3_output)):
        assert store.read("a/b") is None
        assert not store.exists("a/b")
        assert list(store.names()) == []
        assert store.create("a/b", b"one")
        assert not store.create("a/b", b"two")
        assert store.read("a/b") == b"one"
        store.replace("a/b", b"three")
        store.replace("c", b"")
        assert store.read("a/b") == b"three"
        assert sorted(store.names()) == ["a/b", "c"]
        assert list(store.names("a/")) == ["a/b"]


def test_a_killed_writer_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.create("shards/a", b"whole")
    (tmp_path / "shards" / ".b.0000.partial").write_bytes(b"half")
    assert list(store.names()) == ["shards/a"]
    store.tidy()
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["a"]


def test_a_full_disk_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_: int) -> None:  # a full disk cannot be had here without a device of our own
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpaceLeft, match="no space left"):
        FolderStore(tmp_path).create("shards/a", b"data")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_file_system_without_links_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_links(*_: object) -> None:  # as FAT and some network mounts answer
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreFailed, match="no hard links"):
        FolderStore(tmp_path).create("shards/a", b"data")


def test_an_s3_output_that_refuses_us_is_one_clear_line(
    s3_output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreFailed, match="SignatureDoesNotMatch"):
        open_store(s3_output).read("a")
    with pytest.raises(ConfigError, match="names no bucket"):
        open_store("s3://")


def test_a_whole_job_runs_on_s3(
    make_job: Callable[..., BatchJob], tiny_model: ModelOnDisk, s3_output: str, tmp_path: Path
) -> None:
    job = make_job(output=s3_output)
    manifest = finish(job, tiny_model)
    assert (manifest.rows, manifest.rows_ok) == (40, 40)
    rows = rows_of(s3_output, plan(job, tiny_model))
    assert [row["row"] for row in rows] == list(range(40))
    assert status(s3_output).finished
    assert export_jsonl(s3_output, tmp_path / "rows.jsonl") == 40
