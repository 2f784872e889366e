"""Starts jobs in processes of their own, with the scripted engine, to be killed and frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from finishing import rows_of
from scripted_engine import SCRIPT, Script

from pipelines.batch.job import BatchJob
from pipelines.batch.manifest import load_manifest
from pipelines.batch.records import BatchManifest, ModelOnDisk
from pipelines.batch.store import open_store
from pipelines.batch.taking_up import planned

HERE = Path(__file__).parent
PROGRAM = """
import sys
from pipelines.batch.job import BatchJob
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.errors import WeighbridgeError
job, model = BatchJob.model_validate_json(sys.argv[1]), ModelOnDisk.model_validate_json(sys.argv[2])
share = tuple(map(int, sys.argv[3].split("/"))) if sys.argv[3] else None
try:
    run_batch(job, model, share=share, worker_module="scripted_engine")
except WeighbridgeError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def start(
    job: BatchJob, model: ModelOnDisk, script: Script, share: str = ""
) -> subprocess.Popen[bytes]:
    """A process that runs a job, or worker i of n (from 0) of it as 'i/n'."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), SCRIPT: script.model_dump_json()}
    argv = [sys.executable, "-c", PROGRAM, job.model_dump_json(), model.model_dump_json(), share]
    return subprocess.Popen(
        argv, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


def end(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit code and the last line that it wrote on standard error."""
    _, said = process.communicate(timeout=300)
    lines = said.decode().strip().splitlines()
    return process.returncode, lines[-1] if lines else ""


def children(pid: int) -> list[int]:
    """Processes that `pid` started, by any of its threads."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # the thread ended
            continue
    return found


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may have ended by itself."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def wait_for(what: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until `what` holds, for two minutes at most, and as long as the process lives."""
    until = time.monotonic() + 120
    while not what():
        assert time.monotonic() < until
        assert process is None or process.poll() is None
        time.sleep(0.02)


def check_once_each(job: BatchJob, rows: int) -> BatchManifest:
    """Every planned row once in what is committed, and a manifest whose counts say so."""
    store = open_store(job.output)
    manifest = load_manifest(store)
    assert manifest is not None
    found = rows_of(job.output, planned(store))
    assert [row["row"] for row in found] == list(range(rows))
    assert manifest.rows == rows == manifest.rows_ok + sum(manifest.errors.values())
    assert sum(entry.rows for entry in manifest.shards) == rows
    assert Counter(r["error_class"] for r in found if r["error_class"]) == manifest.errors
    assert manifest.tokens.completion == sum(row["completion_tokens"] for row in found)
    left = {name.partition("/")[0] for name in store.names()} - {"plan", "shards"}
    assert left == {"job.json", "manifest.json", "report.html", "report.md", "run.json"}
    return manifest
