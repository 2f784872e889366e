"""Run: plan a job or take its plan up, let workers do what is left of it, and close it."""

from __future__ import annotations

import contextlib
import resource
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pipelines import errors
from pipelines.batch.job import BatchJob
from pipelines.batch.layout import RUN, journal_folder
from pipelines.batch.manifest import count, load_manifest, missing_shards, write_manifest
from pipelines.batch.plan import plan
from pipelines.batch.records import BatchManifest, JobPlan, ModelOnDisk, WorkerReport, WorkerRequest
from pipelines.batch.report import write_report
from pipelines.batch.store import OutputStore, open_store
from pipelines.canonical import record_bytes
from pipelines.errors import WeighbridgeError
from pipelines.progress import parse, report
from pipelines.records import RunInfo
from pipelines.subprocesses import run_module

WORKER = "pipelines.batch.worker"

OnProgress = Callable[[float, float, str, str], None]  # done, total, unit, what


def run_batch(
    job: BatchJob,
    model: ModelOnDisk,
    *,
    workers: int = 1,
    on_progress: OnProgress = report,
    worker_module: str = WORKER,
) -> BatchManifest:
    """Run a job to its end; the same call again after any kill completes it.

    What is committed or journaled is kept, and no engine is started when nothing is left to
    generate. `workers` processes share the work on this machine, each with an engine of its own.
    Raises what `plan` raises, CommandFailed when a worker dies, and TooManyErrors when more rows
    failed than the job's limit; in every case the job can be taken up again.
    """
    began = time.monotonic(), datetime.now(UTC)
    planned = plan(job, model)
    store = open_store(job.output)
    manifest = load_manifest(store)
    if manifest is None:
        outcomes: list[WorkerReport | WeighbridgeError] = []
        if missing_shards(planned, store):
            outcomes = _work(_requests(job, model, planned, workers), worker_module, on_progress)
        failed = [outcome for outcome in outcomes if isinstance(outcome, WeighbridgeError)]
        if failed and missing_shards(planned, store):
            raise failed[0]
        manifest = count(planned, store, job.limits.max_error_rate)
        write_report(planned, manifest, store)
        store.replace(RUN, record_bytes(_run_info(began, outcomes)))
        write_manifest(manifest, store)
    _tidy(job, planned, store)
    return manifest


def _requests(
    job: BatchJob, model: ModelOnDisk, planned: JobPlan, workers: int
) -> list[WorkerRequest]:
    journal = journal_folder(job.output, planned.job_id)
    workers = min(workers, len(planned.shards))
    return [
        WorkerRequest(job=job, model=model, journal=journal, worker=i, workers=workers)
        for i in range(workers)
    ]


def _work(
    requests: Sequence[WorkerRequest], module: str, on_progress: OnProgress
) -> list[WorkerReport | WeighbridgeError]:
    """Run the workers to their ends; for each its report, or what ended it early."""
    outcomes: list[WorkerReport | WeighbridgeError] = []
    furthest = [0.0]

    def on_line(line: str) -> None:
        if (fields := parse(line)) is not None:  # each worker counts what others committed too
            furthest[0] = max(furthest[0], float(fields["done"]))
            total, unit, what = float(fields["total"]), str(fields["unit"]), str(fields["what"])
            on_progress(furthest[0], total, unit, what)

    def one(request: WorkerRequest) -> None:
        try:
            answer = run_module(module, request, on_line=on_line)
        except WeighbridgeError as error:
            outcomes.append(error)
        else:
            outcomes.append(_outcome(WorkerReport.model_validate(answer)))

    # A child dies with the thread that started it: the first worker's is this one, and the others
    # are daemons, so that an interrupt here ends them all.
    others = [threading.Thread(target=one, args=(r,), daemon=True) for r in requests[1:]]
    for thread in others:
        thread.start()
    one(requests[0])
    for thread in others:
        thread.join()
    return outcomes


def _outcome(done: WorkerReport) -> WorkerReport | WeighbridgeError:
    """A report, or the error of ours that it carries, as it was raised in the worker."""
    if done.stopped is None:
        return done
    kind = getattr(errors, done.stopped.error)
    error: WeighbridgeError = kind.__new__(kind)  # the message is whole; do not compose it again
    error.args = (done.stopped.message,)
    return error


def _run_info(
    began: tuple[float, datetime], outcomes: Sequence[WorkerReport | WeighbridgeError]
) -> RunInfo:
    """When, where and how long this run took; earlier runs of the same job are not in it."""
    reports = [outcome for outcome in outcomes if isinstance(outcome, WorkerReport)]
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return RunInfo(
        stage="batch",
        started_at=began[1].isoformat(),
        finished_at=datetime.now(UTC).isoformat(),
        wall_s=round(time.monotonic() - began[0], 3),
        cpu_s=round(time.process_time() + sum(r.cpu_s for r in reports), 3),
        peak_memory_bytes=children.ru_maxrss * 1024,
        host=socket.gethostname(),
        details={
            "workers": len(outcomes),
            "rows_generated": sum(r.rows_generated for r in reports),
            "rows_resumed": sum(r.rows_resumed for r in reports),
            "shards_committed": sum(r.shards_committed for r in reports),
            "shards_lost": sum(r.shards_lost for r in reports),
            "engine_start_s": max((r.engine_start_s for r in reports), default=0.0),
            "generate_s": max((r.generate_s for r in reports), default=0.0),
            "stepping_s": max((r.stepping_s for r in reports), default=0.0),
        },
    )


def _tidy(job: BatchJob, planned: JobPlan, store: OutputStore) -> None:
    """Remove what a finished job no longer needs, also after a run that was killed here."""
    store.tidy()
    journal = journal_folder(job.output, planned.job_id)
    shutil.rmtree(journal, ignore_errors=True)  # a worker that was frozen may still write there
    with contextlib.suppress(OSError):
        journal.parent.rmdir()  # unless another job's journal lies beside it
