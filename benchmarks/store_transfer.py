"""Push to and pull from an S3 store, against boto3's own transfer of the same files.

The store is SeaweedFS on this machine, the files one large one and many small ones. Ours is what a
run does: a stage's output and the run cache are pushed, then restored into an empty cache with
every byte verified and linked into the work tree. The reference is `upload_file` and
`download_file` with boto3's default TransferConfig in ten threads, as `aws s3 sync` does it. Each
transfer runs in a process of its own, whose start counts, in turns (A B B A).

`python -m benchmarks.store_transfer [MEGABYTES] [SMALL_FILES]` runs it alone.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Measure
from pipelines.canonical import Frozen
from pipelines.settings import Settings, load_settings
from pipelines.store.bucket_push import push
from pipelines.store.dvc import Dvc
from pipelines.store.registry import InitConfig, create_registry
from pipelines.store.workspace import Workspace, open_workspace
from pipelines.subprocesses import run_module, serve
from tests.s3_server import S3Server, running_s3_server

TARGET = 1.3
_CHILD = "benchmarks.store_transfer"
_SMALL_BYTES = 8 * 1024
_THREADS = 10  # boto3's own default for the parts of one file
_PREFIX = "data/"
_STAGE = "make"
_GRAPH = "stages:\n  make:\n    cmd: cp -r {0} data\n    deps: [models.yaml]\n    outs: [data]\n"


class Turn(Frozen):
    """One transfer in one direction: which side, and what it took in seconds."""

    side: str
    direction: str
    wall_s: float
    cpu_s: float


class Transfer(Frozen):
    """What the child is asked to do: with boto3 and a bucket, or with a work tree and its home."""

    direction: str
    folder: Path
    bucket: str = ""
    home: Path = Path()


def measure(megabytes: int = 256, small_files: int = 200) -> list[Measure]:
    """Wall and CPU seconds of our push and pull over those of boto3."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-store-") as name:
        base = Path(name)
        (base / "weed").mkdir()
        _write_files(base / "files", megabytes, small_files)
        with running_s3_server(base / "weed") as server:
            os.environ.update(server.environ(), DVC_SITE_CACHE_DIR=str(base / "site-cache"))
            turns = [turn for side in _SIDES for turn in side(base, server)]
    for turn in turns:
        what = f"{turn.side} {turn.direction}"
        print(f"  {what}: {turn.wall_s:.1f} s wall, {turn.cpu_s:.1f} s CPU", file=sys.stderr)
    return [
        Measure(
            name=f"ingest.{direction}_s3_{unit}",
            measured=_seconds(turns, "ours", direction, unit)
            / _seconds(turns, "boto3", direction, unit),
            unit="ratio",
            target=TARGET,
            better="lower",
        )
        for direction in ("push", "pull")
        for unit in ("wall", "cpu")
    ]


def _write_files(folder: Path, megabytes: int, small_files: int) -> None:
    (folder / "small").mkdir(parents=True)
    with (folder / "weights.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    for number in range(small_files):
        (folder / "small" / f"{number:05}").write_bytes(os.urandom(_SMALL_BYTES))


def _ours(base: Path, server: S3Server) -> list[Turn]:
    """A new registry on a new bucket: publish a folder, then restore it with nothing here."""
    home = Path(tempfile.mkdtemp(dir=base))
    create_registry(
        InitConfig(
            registry=home / "registry",
            origin=home / "origin.git",
            remote=f"s3://{server.bucket()}/store",
        )
    )
    settings: Settings = load_settings(home / "registry", environ={})
    with open_workspace(settings) as workspace:
        (workspace.root / "dvc.yaml").write_text(_GRAPH.format(base / "files"), encoding="utf-8")
        workspace.reproduce(_STAGE)
        pushed = _timed("ours", _asked("push", workspace))
        workspace.publish("Add data")
    with open_workspace(settings, shared_cache=False) as workspace:
        pulled = _timed("ours", _asked("pull", workspace))
        assert (workspace.root / "data" / "weights.bin").is_file()
    return [pushed, pulled]


def _asked(direction: str, workspace: Workspace) -> Transfer:
    return Transfer(direction=direction, folder=workspace.root, home=workspace.home)


def _boto3(base: Path, server: S3Server) -> list[Turn]:
    bucket, target = server.bucket(), Path(tempfile.mkdtemp(dir=base))
    turns = []
    for direction, folder in (("push", base / "files"), ("pull", target)):
        asked = Transfer(direction=direction, folder=folder, bucket=bucket)
        turns.append(_timed("boto3", asked))
    return turns


_SIDES: tuple[Callable[[Path, S3Server], list[Turn]], ...] = (_ours, _boto3, _boto3, _ours)


def _timed(side: str, asked: Transfer) -> Turn:
    cpu, wall = _children_cpu_s(), time.monotonic()
    run_module(_CHILD, asked)
    return Turn(
        side=side,
        direction=asked.direction,
        wall_s=time.monotonic() - wall,
        cpu_s=_children_cpu_s() - cpu,
    )


def _children_cpu_s() -> float:
    """CPU of ended child processes; the server is one too, but it does not end in between."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _seconds(turns: list[Turn], side: str, direction: str, unit: str) -> float:
    chosen = [turn for turn in turns if (turn.side, turn.direction) == (side, direction)]
    return sum(turn.wall_s if unit == "wall" else turn.cpu_s for turn in chosen)


def _transfer(request: bytes) -> int:
    """The child: one transfer of one side."""
    asked = Transfer.model_validate_json(request)
    return _by_boto3(asked) if asked.bucket else _by_us(asked)


def _by_us(asked: Transfer) -> int:
    if asked.direction == "push":
        assert push(asked.folder, asked.home, [_STAGE])
        return 0
    settings = Settings(origin="", home=asked.home)
    dvc = Dvc(asked.folder, asked.home / "site-cache")
    Workspace(settings, asked.folder, asked.home, dvc).restore("data")
    return 0


def _by_boto3(asked: Transfer) -> int:
    """All files of a folder up, or all objects of a bucket down."""
    import boto3

    client = boto3.client("s3")
    if asked.direction == "push":
        files = [path for path in asked.folder.rglob("*") if path.is_file()]

        def move(path: Path) -> None:
            key = _PREFIX + path.relative_to(asked.folder).as_posix()
            client.upload_file(str(path), asked.bucket, key)

        with ThreadPoolExecutor(_THREADS) as pool:
            return len(list(pool.map(move, files)))
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=asked.bucket)
    keys = [entry["Key"] for page in pages for entry in page["Contents"]]

    def fetch(key: str) -> None:
        path = asked.folder / key.removeprefix(_PREFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(asked.bucket, key, str(path))

    with ThreadPoolExecutor(_THREADS) as pool:
        return len(list(pool.map(fetch, keys)))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith(".json"):
        serve(_transfer)
    else:
        for line in measure(*map(int, sys.argv[1:])):
            print(line.line())
