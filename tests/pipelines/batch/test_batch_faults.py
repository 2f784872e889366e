"""Storms: workers, the run and the store die at seeded moments; no row is lost, none is twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from finishing import Engines, finish
from processes import HERE, PROGRAM, check_once_each, children, end, kill, start, wait_for
from scripted_engine import SCRIPT, Script

from pipelines.batch import s3_store
from pipelines.batch.job import BatchJob
from pipelines.batch.manifest import load_manifest
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.store import open_store
from pipelines.errors import StoreFailed
from tests.s3_server import KillableS3Server, S3Faults, S3Server

MakeJob = Callable[..., BatchJob]
DOCUMENTS = 400


@pytest.fixture
def storm_job(make_job: MakeJob, corpus: Path) -> BatchJob:
    """A job of 400 rows in shards of sixteen."""
    for number in range(40, DOCUMENTS):
        (corpus / f"document-{number:03}.txt").write_text(f"This is document {number}.\n")
    return make_job(shard_rows=16, engine={"max_in_flight": 24})


@pytest.fixture
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableS3Server]:
    server = KillableS3Server(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.kill()


def storm(
    job: BatchJob,
    model: ModelOnDisk,
    log: Path,
    seed: int,
    kills: int,
    server: KillableS3Server | None = None,
) -> Counter[str]:
    """Run a job to its end, killing a worker, the run or the store at seeded moments."""
    moments, killed = random.Random(seed), Counter[str]()
    targets = ["worker", "run", "store"] if server else ["worker", "run"]
    script = Script(log=log, slow_s=0.04 * kills)
    while True:
        process = start(job, model, script)
        while killed.total() < kills:
            if moments.random() < 0.75:  # else whatever it is at, its start included
                wait_for_progress(process, log)
            if wait_until(process, time.monotonic() + moments.uniform(0.0, 1.5)):
                break
            target = moments.choice(targets)
            if strike(target, process, server):
                killed[target] += 1
        code, said = end(process)
        if code == 0:
            assert killed.total() > kills / 2
            return killed
        assert code == -signal.SIGKILL or said.startswith(("CommandFailed", "StoreFailed")), said


def wait_for_progress(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the engine was asked something more, or the process ended."""
    size = log.stat().st_size if log.exists() else 0
    wait_for(lambda: process.poll() is not None or (log.exists() and log.stat().st_size > size))


def wait_until(process: subprocess.Popen[bytes], moment: float) -> bool:
    """Wait for a moment; whether the process ended before it."""
    while time.monotonic() < moment:
        if process.poll() is not None:
            return True
        time.sleep(0.005)
    return False


def strike(target: str, process: subprocess.Popen[bytes], server: KillableS3Server | None) -> bool:
    """Kill it; whether it was there."""
    if target == "run":
        kill(process.pid)
        return True
    if target == "worker":
        workers = children(process.pid)
        for child in workers:
            kill(child)
        return bool(workers)
    assert server is not None
    server.kill()
    server.start()
    return True


def asked_again(log: Path, in_flight: int, kills: int) -> int:
    """How many requests were made more than once; at most what was in flight at each kill."""
    lines = Counter(log.read_text().splitlines())
    again = sum(count - 1 for key, count in lines.items() if key not in ("start", "close"))
    assert again <= kills * in_flight
    return again


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.long)])
def test_no_row_is_lost_or_twice_under_kills_on_files(
    storm_job: BatchJob, tiny_model: ModelOnDisk, tmp_path: Path, kills: int
) -> None:
    log = tmp_path / "log"
    killed = storm(storm_job, tiny_model, log, seed=kills, kills=kills)
    check_once_each(storm_job, DOCUMENTS)
    again = asked_again(log, 24, killed.total())
    print(f"files: killed {dict(killed)}, {again} of {DOCUMENTS} rows generated again")


@pytest.mark.long
def test_no_row_is_lost_or_twice_under_kills_on_s3(
    storm_job: BatchJob,
    tiny_model: ModelOnDisk,
    tmp_path: Path,
    killable: KillableS3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in killable.server.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    job = storm_job.model_copy(update={"output": f"s3://{killable.server.bucket()}/storm"})
    log = tmp_path / "log"
    killed = storm(job, tiny_model, log, seed=3, kills=20, server=killable)
    check_once_each(job, DOCUMENTS)
    again = asked_again(log, 24, killed.total())
    print(f"S3: killed {dict(killed)}, {again} of {DOCUMENTS} rows generated again")


@pytest.mark.parametrize("where", ["folder", pytest.param("s3", marks=pytest.mark.long)])
@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.long)])
def test_workers_on_several_machines_finish_one_job_together(
    storm_job: BatchJob,
    tiny_model: ModelOnDisk,
    tmp_path: Path,
    workers: int,
    where: str,
    request: pytest.FixtureRequest,
) -> None:
    """Each process plans, works and closes the job by itself, as on a machine of its own."""
    output = request.getfixturevalue("s3_output") if where == "s3" else storm_job.output
    job = storm_job.model_copy(update={"output": output})
    log = tmp_path / "log"
    script = Script(log=log, slow_s=0.02)
    processes = [start(job, tiny_model, script, f"{i}/{workers}") for i in range(workers)]
    assert [end(process)[0] for process in processes] == [0] * workers
    check_once_each(job, DOCUMENTS)
    lines = Counter(log.read_text().splitlines())
    again = sum(count - 1 for key, count in lines.items() if key not in ("start", "close"))
    assert again < DOCUMENTS / 2  # a job this small fits in what each worker reads ahead
    print(f"{where}, {workers} workers: {again} of {DOCUMENTS} rows generated twice")


@pytest.mark.parametrize("frozen_s", [0.5, pytest.param(150.0, marks=pytest.mark.long)])
def test_frozen_worker_commits_nothing_again_when_it_wakes(
    storm_job: BatchJob, tiny_model: ModelOnDisk, tmp_path: Path, frozen_s: float
) -> None:
    job, logs = storm_job, [tmp_path / "one", tmp_path / "two"]
    frozen = start(job, tiny_model, Script(log=logs[0], slow_s=0.2), "0/2")
    wait_for(lambda: logs[0].exists() and logs[0].read_text().count("-1\n") > 60, frozen)
    asleep = children(frozen.pid)
    for pid in asleep:
        kill(pid, signal.SIGSTOP)
    time.sleep(frozen_s)
    assert end(start(job, tiny_model, Script(log=logs[1]), "1/2"))[0] == 0
    before = check_once_each(job, DOCUMENTS)
    asked = logs[0].read_text().count("\n")
    for pid in asleep:
        kill(pid, signal.SIGCONT)
    assert end(frozen)[0] == 0
    assert check_once_each(job, DOCUMENTS) == before
    assert logs[0].read_text().count("\n") - asked < DOCUMENTS / 2  # it noticed, and stopped


FULL = """
mount -t tmpfs -o size=400k tmpfs "$1" || exit 97
"$0" -c "$2" "$3" "$4" ""
[ $? = 1 ] || exit 96
[ ! -e "$1/out/manifest.json" ] || exit 95
mount -o remount,size=40m "$1" || exit 94
"$0" -c "$2" "$3" "$4" "" || exit 93
cp -r "$1/out" "$5"
"""


def test_full_disk_stops_a_job_that_goes_on_when_there_is_room(
    storm_job: BatchJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    """On a file system of 400 kB of its own, in a mount name space that ends with the process."""
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    disk.mkdir()
    job = storm_job.model_copy(update={"output": str(disk / "out")})
    argv = ["unshare", "-Urm", "sh", "-c", FULL, sys.executable, str(disk), PROGRAM]
    argv += [job.model_dump_json(), tiny_model.model_dump_json(), str(saved)]
    environment = {**os.environ, "PYTHONPATH": str(HERE), SCRIPT: Script().model_dump_json()}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert "NoSpaceLeft" in done.stderr
    check_once_each(job.model_copy(update={"output": str(saved)}), DOCUMENTS)


@pytest.fixture
def faults(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[S3Faults]:
    """A proxy before S3, which this process's outputs go through, with short patience."""
    monkeypatch.setattr(s3_store, "_READ_TIMEOUT_S", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with S3Faults(s3_server) as proxy:
        for name, value in proxy.server.environ().items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.mark.parametrize(
    "way", ["failing", "lost", pytest.param("stalled", marks=pytest.mark.long)]
)
def test_store_that_fails_loses_answers_or_stalls_costs_time_and_no_row(
    make_job: MakeJob, tiny_model: ModelOnDisk, faults: S3Faults, s3_server: S3Server, way: str
) -> None:
    job = make_job(output=f"s3://{s3_server.bucket()}/out")
    setattr(faults, way, 3 if way != "stalled" else 1)
    manifest = finish(job, tiny_model)
    assert faults.failed
    assert getattr(faults, way) == 0
    assert (manifest.rows, manifest.rows_ok) == (40, 40)


@pytest.mark.long
def test_store_that_stays_away_ends_the_run_and_the_next_one_goes_on(
    make_job: MakeJob, tiny_model: ModelOnDisk, faults: S3Faults, s3_server: S3Server
) -> None:
    job, engines = make_job(output=f"s3://{s3_server.bucket()}/out"), Engines()
    faults.failing = 9
    with pytest.raises(StoreFailed, match="500"):
        finish(job, tiny_model)
    assert load_manifest(open_store(job.output)) is None
    faults.failing = 0
    assert finish(job, tiny_model).rows_ok == 40
    assert engines.made == []
