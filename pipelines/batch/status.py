"""Status: how far a job is, what it has cost and who works on it, from its output alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from typing import Literal

from pipelines.batch.cancel import is_cancelled
from pipelines.batch.journal import count_rows
from pipelines.batch.layout import RUN, journal_folder
from pipelines.batch.manifest import load_manifest, missing_shards
from pipelines.batch.records import BatchManifest, BatchStatus, JobPlan, Spent
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.taking_up import planned
from pipelines.batch.usage import WorkerUsage, read_usage, spent
from pipelines.records import RunInfo, parse_record

State = Literal["planned", "running", "stopped", "cancelled", "finished"]


def status(output: str) -> BatchStatus:
    """How far the job in an output location is; raises JobNotFinished when none was planned.

    Before the end, errors, tokens and cost are what workers have reported, up to seconds ago. Rows
    that a worker had to answer again after a kill count twice there, as they cost twice.
    """
    store = open_store(output)
    plan, manifest = planned(store), load_manifest(store)
    missing = missing_shards(plan, store)
    entries, now = list(read_usage(store, {}).values()), time.time()
    alive = [entry for entry in entries if entry.alive(now)] if manifest is None else []
    committed = plan.rows - sum(plan.rows_in(index) for index in missing)
    journaled = count_rows(journal_folder(output, plan.job_id))
    rates = [rate for entry in alive if (rate := entry.rows_per_s()) is not None]
    state: State = "planned"
    if manifest is not None:
        state = "finished"
    elif is_cancelled(store):
        state = "cancelled"
    elif alive:
        state = "running"
    elif entries or committed or journaled:
        state = "stopped"
    return BatchStatus(
        job_id=plan.job_id,
        name=plan.job.name,
        state=state,
        finished=manifest is not None,
        shards=len(plan.shards),
        shards_committed=len(plan.shards) - len(missing),
        rows=plan.rows,
        reduced_rows=plan.reduced_rows,
        rows_committed=committed,
        rows_journaled=journaled,
        errors=_errors(plan, manifest, entries),
        workers_alive=tuple(f"{entry.share} on {entry.host}" for entry in alive),
        spent=_spent(store, manifest, entries),
        rows_per_s=round(sum(rates), 3) if rates else None,
        left_s=round((plan.rows - committed - journaled) / sum(rates), 1) if sum(rates) else None,
    )


def _errors(
    plan: JobPlan, manifest: BatchManifest | None, entries: Collection[WorkerUsage]
) -> dict[str, int]:
    if manifest is not None:
        return manifest.errors
    counted = Counter(plan.planned_errors)
    for entry in entries:
        counted.update(entry.errors)
    return dict(sorted(counted.items()))


def _spent(
    store: OutputStore, manifest: BatchManifest | None, entries: Collection[WorkerUsage]
) -> Spent:
    """Of a finished job the tokens in the manifest, and the time and cost in run.json."""
    if manifest is None:
        return spent(entries)
    tokens, run = manifest.tokens, store.read(RUN)
    took = parse_record(run, f"{store.location}/{RUN}", RunInfo).details if run else {}
    return Spent(
        worker_s=float(took.get("job_worker_s", 0.0)),
        usd=float(took["job_usd"]) if "job_usd" in took else None,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cached_tokens=tokens.cached,
    )
