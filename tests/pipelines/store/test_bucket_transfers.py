"""Objects on their way to a bucket and back: whole or not there, and never taken on trust."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.errors import (
    BucketMissing,
    KeysRefused,
    NoSpaceLeft,
    RemoteUnreachable,
    TransferCutOff,
)
from pipelines.settings import load_settings
from pipelines.store import bucket_push
from pipelines.store.bucket_pull import fetch
from pipelines.store.bucket_push import push
from pipelines.store.objects import ObjectStore
from pipelines.store.receiving import Offer, Reader, Stated, receive
from pipelines.store.registry import InitConfig, create_registry
from pipelines.store.remote import OBJECTS
from pipelines.store.workspace import Workspace, open_workspace
from tests.s3_proxy import s3_proxy
from tests.s3_server import S3Faults, S3Server

LARGE = os.urandom(20 * 1024 * 1024)
SMALL = b"{}\n"
GRAPH = """\
stages:
  make:
    cmd: cp -r {0} data
    deps: [models.yaml]
    outs: [data]
"""


class Held:
    """A clone on a new bucket, in which one stage made a folder: a large file and a small one."""

    def __init__(self, workspace: Workspace, server: S3Server, folder: Path) -> None:
        self.workspace, self.client, self.bucket = workspace, server.client(), server.bucket()
        self.root, self.home = workspace.root, workspace.home
        self.large = hashlib.md5(LARGE).hexdigest()
        self._folder = folder

    def key(self, address: str) -> str:
        return f"store/{OBJECTS}/{address[:2]}/{address[2:]}"

    def listed(self) -> set[str]:
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {entry["Key"] for entry in listed}

    def reach(self, endpoint: str) -> None:
        """Let the tree's remote be reached at another endpoint."""
        config = self.root / ".dvc" / "config"
        lines = config.read_text().splitlines()
        changed = [f"    endpointurl = {endpoint}" if "endpointurl" in s else s for s in lines]
        config.write_text("\n".join(changed) + "\n")

    def elsewhere(self) -> ObjectStore:
        """The store of a machine that has nothing yet; the tree goes with it."""
        self.keep_objects_in(self._folder / "home")
        return ObjectStore(self._folder / "home")

    def keep_objects_in(self, home: Path) -> None:
        """Make the cache below `home` that of the tree."""
        local = self.root / ".dvc" / "config.local"
        local.write_text(f'[cache]\n    dir = {home / "cache"}\n    type = "hardlink,copy"\n')


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server
) -> Iterator[tuple[Workspace, str]]:
    """A clone in which the stage ran and nothing was pushed, and its DVC configuration."""
    base = tmp_path_factory.mktemp("bucket")
    (base / "made").mkdir()
    (base / "made" / "weights.bin").write_bytes(LARGE)
    (base / "made" / "config.json").write_bytes(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environ().items():
            patch.setenv(name, value)
        remote = f"s3://{s3_server.bucket()}/store"
        create_registry(
            InitConfig(registry=base / "registry", origin=base / "origin.git", remote=remote)
        )
        with open_workspace(load_settings(base / "registry", environ={})) as workspace:
            (workspace.root / "dvc.yaml").write_text(GRAPH.format(base / "made"))
            assert workspace.reproduce("make") == "ran"
            yield workspace, (workspace.root / ".dvc" / "config").read_text()


@pytest.fixture
def held(
    made: tuple[Workspace, str],
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Held:
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    workspace, config = made
    held = Held(workspace, s3_server, tmp_path)
    own = re.sub(r"s3://[a-z0-9-]+/", f"s3://{held.bucket}/", config)
    (held.root / ".dvc" / "config").write_text(own)
    held.keep_objects_in(held.home)
    return held


def test_what_is_pushed_is_what_dvc_would_have_pushed(held: Held) -> None:
    assert push(held.root, held.home, ["make"])
    ours = held.listed()
    assert sum("/runs/" in key for key in ours) == 1
    for key in ours:
        held.client.delete_object(Bucket=held.bucket, Key=key)
    held.workspace.dvc("push", "--run-cache", "make")
    assert held.listed() == ours


def test_what_is_fetched_needs_no_remote_any_more(held: Held) -> None:
    assert push(held.root, held.home, ["make"])
    store = held.elsewhere()
    assert fetch(held.root, store.home, ["data"])
    for key in held.listed():
        held.client.delete_object(Bucket=held.bucket, Key=key)
    shutil.rmtree(held.root / "data")
    held.workspace.dvc("checkout", "data")
    weights = held.root / "data" / "weights.bin"
    assert weights.read_bytes() == LARGE
    assert weights.stat().st_ino == store.path(held.large).stat().st_ino
    assert weights.stat().st_mode & 0o777 == 0o444
    assert fetch(held.root, store.home, ["make"])  # of all that is here, nothing is asked for
    assert hashlib.sha256(LARGE).hexdigest() in store.find([hashlib.sha256(LARGE).hexdigest()])


def test_parts_that_the_server_gets_come_with_checksums(held: Held) -> None:
    assert push(held.root, held.home, ["make"])
    head = held.client.head_object(
        Bucket=held.bucket, Key=held.key(held.large), ChecksumMode="ENABLED"
    )
    assert head["ChecksumCRC32"]


def test_a_large_object_of_another_size_is_replaced_and_a_sound_one_is_not_sent_again(
    held: Held,
) -> None:
    assert push(held.root, held.home, ["make"])
    key = held.key(held.large)
    there = held.client.head_object(Bucket=held.bucket, Key=key)["LastModified"]
    assert push(held.root, held.home, ["make"])
    assert held.client.head_object(Bucket=held.bucket, Key=key)["LastModified"] == there
    held.client.put_object(Bucket=held.bucket, Key=key, Body=LARGE[:-1])
    assert push(held.root, held.home, ["make"])
    assert held.client.get_object(Bucket=held.bucket, Key=key)["Body"].read() == LARGE


def test_a_push_that_fails_shows_no_listing_and_the_next_one_ends_it(
    held: Held, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Faults(s3_server) as faults:
        held.reach(faults.server.endpoint)
        monkeypatch.setattr(bucket_push, "_LARGE_BYTES", 2**60)  # nothing is asked first
        faults.failing = 10_000
        with pytest.raises(RemoteUnreachable, match=r"InternalError|500"):
            push(held.root, held.home, ["make"])
    assert not any(key.endswith(".dir") for key in held.listed())
    held.reach(s3_server.endpoint)
    assert push(held.root, held.home, ["make"])
    assert any(key.endswith(".dir") for key in held.listed())


def test_uploads_that_a_kill_left_are_given_back_after_a_day(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left() -> int:
        return len(held.client.list_multipart_uploads(Bucket=held.bucket).get("Uploads", []))

    held.client.create_multipart_upload(Bucket=held.bucket, Key=held.key("ab" * 16))
    held.client.create_multipart_upload(Bucket=held.bucket, Key="elsewhere/x")
    assert push(held.root, held.home, ["make"])
    assert left() == 2
    held.client.delete_object(Bucket=held.bucket, Key=held.key(held.large))
    monkeypatch.setattr(bucket_push, "_ABANDONED_AFTER", timedelta(0))
    assert push(held.root, held.home, ["make"])
    assert left() == 1


@pytest.mark.parametrize("there", [LARGE[:-1] + b"x", LARGE[:-1], b"", None])
def test_other_bytes_under_an_address_are_left_to_dvc_and_never_kept(
    held: Held, there: bytes | None
) -> None:
    assert push(held.root, held.home, ["make"])
    key = held.key(held.large)
    held.client.delete_object(Bucket=held.bucket, Key=key)
    if there is not None:
        held.client.put_object(Bucket=held.bucket, Key=key, Body=there)
    store = held.elsewhere()
    assert not fetch(held.root, store.home, ["make"])
    assert not store.path(held.large).exists()
    assert not any(path.stat().st_size for path in store.incoming.iterdir())
    assert not any(store.objects.glob("??/*.dir"))  # it would say that all files are here


def test_a_damaged_listing_is_left_to_dvc(held: Held) -> None:
    assert push(held.root, held.home, ["make"])
    key = next(key for key in held.listed() if key.endswith(".dir"))
    held.client.put_object(Bucket=held.bucket, Key=key, Body=b"[]")
    assert not fetch(held.root, held.elsewhere().home, ["make"])


def test_a_large_object_goes_on_where_it_was_cut_off(held: Held, s3_server: S3Server) -> None:
    assert push(held.root, held.home, ["make"])
    store = held.elsewhere()
    half = len(LARGE) // 2

    @contextmanager
    def breaks_off(offer: Offer, offset: int) -> Iterator[Reader]:
        yield io.BytesIO(LARGE[:half])

    offer = Offer("", "", len(LARGE), f"md5:{held.large}", Stated("md5", held.large))
    with pytest.raises(TransferCutOff):
        receive(store, offer, breaks_off, lambda count: None)
    with s3_proxy(s3_server) as proxy:
        held.reach(proxy.endpoint)
        assert fetch(held.root, store.home, ["make"])
    spans = [span for method, path, span in proxy.asked if path.endswith(held.large[2:])]
    assert f"bytes={half}-" in spans
    assert store.path(held.large).read_bytes() == LARGE


def test_a_stream_that_breaks_off_is_taken_up_again(held: Held, s3_server: S3Server) -> None:
    assert push(held.root, held.home, ["make"])
    store = held.elsewhere()
    with s3_proxy(s3_server) as proxy:
        held.reach(proxy.endpoint)
        proxy.cuts[held.key(held.large)] = [len(LARGE) // 3]
        assert fetch(held.root, store.home, ["make"])
    assert store.path(held.large).read_bytes() == LARGE


def test_a_remote_with_settings_of_its_own_is_left_to_dvc(held: Held) -> None:
    assert not fetch(held.root, held.home.parent / "another home", ["make"])
    assert not fetch(held.root, held.home, ["no such target"])
    config = held.root / ".dvc" / "config"
    config.write_text(config.read_text() + "    sse = AES256\n")
    assert not push(held.root, held.home, ["make"])
    assert not fetch(held.root, held.elsewhere().home, ["make"])
    assert held.listed() == set()


@pytest.mark.parametrize("move", [push, fetch])
def test_what_the_store_refuses_is_named(
    held: Held, monkeypatch: pytest.MonkeyPatch, move: Callable[[Path, Path, list[str]], bool]
) -> None:
    assert push(held.root, held.home, ["make"])
    home = held.home if move is push else held.elsewhere().home
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(KeysRefused):
            move(held.root, home, ["make"])
    config = held.root / ".dvc" / "config"
    config.write_text(config.read_text().replace(held.bucket, "absent-bucket"))
    if move is push:  # a store says of a missing object's bucket only what it likes
        with pytest.raises(BucketMissing):
            move(held.root, home, ["make"])


def test_a_fetch_that_cannot_fit_is_refused_before_it_starts(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(held.root, held.home, ["make"])
    store = held.elsewhere()
    full = shutil.disk_usage(held.root)._replace(free=1000)  # a full disk cannot be had here
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(NoSpaceLeft):
        fetch(held.root, store.home, ["make"])
    assert not any(path.is_file() for path in store.objects.rglob("*"))


def test_progress_is_told_in_bytes(held: Held, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(held.root, held.home, ["make"])
    assert f"push to s3://{held.bucket}/store: 21 of 21 MB (100 %)" in capsys.readouterr().err
    assert fetch(held.root, held.elsewhere().home, ["make"])
    assert f"pull from s3://{held.bucket}/store: 21 of 21 MB (100 %)" in capsys.readouterr().err
