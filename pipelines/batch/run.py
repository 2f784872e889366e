"""Run: plan a job or take its plan up, let workers do what is left of it, and close it."""

from __future__ import annotations

import contextlib
import resource
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipelines import errors
from pipelines.batch.cancel import check_cancelled
from pipelines.batch.destinations import EgressRules
from pipelines.batch.egress import sending_store
from pipelines.batch.gpus import divide_gpus, visible_gpus
from pipelines.batch.job import BatchJob
from pipelines.batch.layout import CANCEL, RUN, WORKERS, journal_folder
from pipelines.batch.limits import check_planned, check_spent, price_usd_per_hour
from pipelines.batch.manifest import count, load_manifest, missing_shards, write_manifest
from pipelines.batch.records import BatchManifest, JobPlan, ModelOnDisk, WorkerReport, WorkerRequest
from pipelines.batch.recovery import attend
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.taking_up import Answerer, answerer, take_up
from pipelines.batch.usage import read_usage, spent
from pipelines.canonical import record_bytes
from pipelines.errors import WeighbridgeError
from pipelines.progress import parse, report
from pipelines.records import RunInfo

WORKER = "pipelines.batch.worker"

OnProgress = Callable[[float, float, str, str], None]  # done, total, unit, what


def run_batch(
    job: BatchJob,
    model: ModelOnDisk,
    *,
    workers: int = 1,
    share: tuple[int, int] | None = None,
    on_progress: OnProgress = report,
    worker_module: str = WORKER,
    egress: EgressRules | None = None,
) -> BatchManifest:
    """Run a job to its end; the same call again after any kill completes it.

    What is committed or journaled is kept, and no engine is started when nothing is left to
    generate. `workers` processes share the work on this machine, each with an engine of its own;
    with a `share` (i, n), i from 0, only worker i of n runs here and others elsewhere. Whoever
    finds every shard committed writes the manifest; it is the same whoever is first.
    Raises what `plan` raises, CommandFailed when a worker dies, TooManyErrors when more rows
    failed than the job's limit, LimitReached when the job has spent what it may, and JobCancelled;
    in every case the job can be taken up again.
    """
    rules = egress or EgressRules()
    crew = Crew(workers, share, on_progress, worker_module, rules)
    return run_planned(job, model, plan_or_take_up(job, model, rules), crew)


def plan_or_take_up(
    job: BatchJob, model: ModelOnDisk, egress: EgressRules | None = None
) -> JobPlan:
    """The job's plan, made now or before; raises what `plan` raises."""
    planned = take_up(job, answerer(model))
    if planned is None:
        from pipelines.batch.plan import plan  # a tokenizer, grammars: not for a finished job

        planned = plan(job, model, egress)
    return planned


def finished_batch(job: BatchJob, model: Answerer) -> BatchManifest | None:
    """The manifest of a job that is plainly done, found without the model's bytes.

    None leaves the question to `run_batch`: not finished, or not plainly this job.
    """
    planned = take_up(job, model)
    store = open_store(job.output)
    manifest = None if planned is None else load_manifest(store)
    if planned is not None and manifest is not None:
        _tidy(job, planned, store)
    return manifest


@dataclass(frozen=True)
class Crew:
    """Who works on a job here, and who hears of it."""

    workers: int = 1
    share: tuple[int, int] | None = None
    on_progress: OnProgress = report
    module: str = WORKER
    egress: EgressRules = field(default_factory=EgressRules)
    history: Path | None = None  # folder that remembers throughput, where it is wanted


def run_planned(job: BatchJob, model: ModelOnDisk, planned: JobPlan, crew: Crew) -> BatchManifest:
    """`run_batch` for a job that is planned in its output location."""
    began = time.monotonic(), datetime.now(UTC)
    store = sending_store(job, crew.egress, planned.job_id)
    manifest = load_manifest(store)
    if manifest is None:
        from pipelines.batch.copies import fill_copies  # not for a finished job

        outcomes: list[WorkerReport | WeighbridgeError] = []
        if any(index < planned.first_copy_shard for index in missing_shards(planned, store)):
            _check_may_run(job, planned, store)
            outcomes = _work(_requests(job, model, planned, crew), crew.module, crew.on_progress)
        fill_copies(planned, store)
        failed = [outcome for outcome in outcomes if isinstance(outcome, WeighbridgeError)]
        if failed and missing_shards(planned, store):
            raise failed[0]
        manifest = _close(job, planned, store, _run_info(began, outcomes, store))
        if crew.history is not None:
            from pipelines.batch import throughput

            reports = [outcome for outcome in outcomes if isinstance(outcome, WorkerReport)]
            throughput.record(crew.history, planned, manifest, reports)
    _tidy(job, planned, store)
    return manifest


def _check_may_run(job: BatchJob, planned: JobPlan, store: OutputStore) -> None:
    """Refuse before an engine is started: cancelled, or nothing left to spend."""
    check_cancelled(store)
    check_planned(planned, job.limits)
    price = price_usd_per_hour(job.limits)
    check_spent(job.name, job.limits, spent(read_usage(store, {}).values(), price))


def _close(job: BatchJob, planned: JobPlan, store: OutputStore, info: RunInfo) -> BatchManifest:
    """Count what is committed and write report, run and, last, the manifest."""
    if (manifest := load_manifest(store)) is not None:
        return manifest  # a worker elsewhere was first
    from pipelines.batch.report import cost_facts, write_report

    manifest = count(planned, store, job.limits.max_error_rate)
    write_report(planned, manifest, store, cost_facts(info))
    store.replace(RUN, record_bytes(info))
    write_manifest(manifest, store)
    return manifest


def _requests(
    job: BatchJob, model: ModelOnDisk, planned: JobPlan, crew: Crew
) -> list[WorkerRequest]:
    gpus = divide_gpus(job.engine, visible_gpus())
    here = min(len(gpus) if len(gpus) > 1 else crew.workers, len(planned.shards))
    i, n = crew.share or (0, 1)
    shares = [(i * here + k, n * here) for k in range(here)]
    return [
        WorkerRequest(
            job=job,
            model=model,
            journal=journal_folder(job.output, planned.job_id),
            egress=crew.egress,
            worker=worker,
            workers=workers,
            environment=gpus[worker % here] if len(gpus) > 1 else gpus[0],
        )
        for worker, workers in shares
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
            done = attend(module, request, on_line)
        except WeighbridgeError as error:
            outcomes.append(error)
        else:
            outcomes.append(_outcome(done))

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
    began: tuple[float, datetime],
    outcomes: Sequence[WorkerReport | WeighbridgeError],
    store: OutputStore,
) -> RunInfo:
    """When, where and how long this run took; `job_…` are sums over all runs of the job."""
    whole = spent(read_usage(store, {}).values())
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
            "occupancy": min((r.occupancy for r in reports if r.engine), default=0.0),
            "engine_deaths": sum(r.engine_deaths for r in reports),
            "generate_s": max((r.generate_s for r in reports), default=0.0),
            "stepping_s": max((r.stepping_s for r in reports), default=0.0),
            "job_worker_s": whole.worker_s,
            "job_prompt_tokens": whole.prompt_tokens,
            "job_completion_tokens": whole.completion_tokens,
            **({} if whole.usd is None else {"job_usd": round(whole.usd, 6)}),
        },
    )


def _tidy(job: BatchJob, planned: JobPlan, store: OutputStore) -> None:
    """Remove what a finished job no longer needs, also after a run that was killed here."""
    for name in [*store.names(WORKERS), *store.names(CANCEL)]:
        store.delete(name)
    store.tidy()
    journal = journal_folder(job.output, planned.job_id)
    shutil.rmtree(journal, ignore_errors=True)  # a worker that was frozen may still write there
    with contextlib.suppress(OSError):
        journal.parent.rmdir()  # unless another job's journal lies beside it
