"""Stores: of all that create a name, one is told so; on a folder and on a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
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


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free, and free 10,000 above (for gRPC)."""
    for first in range(23000 + os.getpid() % 1000, 30000, count):
        try:
            for port in [
                *range(first, first + count),
                *range(first + 10000, first + 10000 + count),
            ]:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SeaweedFS with one bucket, `results`; its endpoint."""
    folder, port = tmp_path_factory.mktemp("weed"), free_ports(4)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": "test", "secretKey": "test-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    weed = Path(sys.executable).with_name("weed")
    process = subprocess.Popen(
        [
            weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-s3", f"-s3.port={port}", "-s3.port.iceberg=0",
            f"-s3.config={config}", f"-master.port={port + 1}", f"-volume.port={port + 2}",
            f"-filer.port={port + 3}", "-metricsPort=0", "-master.volumeSizeLimitMB=64",
            "-volume.max=40", "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms",
            "-volume.preStopSeconds=1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz", lambda body: True)
        wait_for(f"http://127.0.0.1:{port + 1}/dir/status", lambda body: b"Volumes" in body)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, ready: Callable[[bytes], bool]) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200 and ready(answer.read()):
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture
def s3_output(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A fresh prefix on the server, with the environment that reaches it."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    client = boto3.client("s3")
    if "results" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="results")
    return f"s3://results/{tmp_path.name}"


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
