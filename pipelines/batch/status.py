"""Status: how far a job is, from its output location alone."""

from __future__ import annotations

from pipelines.batch.journal import count_rows
from pipelines.batch.layout import JOB, MANIFEST, journal_folder
from pipelines.batch.manifest import missing_shards
from pipelines.batch.plan import load_plan
from pipelines.batch.records import BatchStatus
from pipelines.batch.store import open_store
from pipelines.errors import JobNotFinished


def status(output: str) -> BatchStatus:
    """How far the job in an output location is; raises JobNotFinished when none was planned."""
    store = open_store(output)
    plan = load_plan(store)
    if plan is None:
        raise JobNotFinished(output, f"there is no {JOB}: no job was planned here")
    missing = missing_shards(plan, store)
    return BatchStatus(
        job_id=plan.job_id,
        name=plan.job.name,
        finished=store.exists(MANIFEST),
        shards=len(plan.shards),
        shards_committed=len(plan.shards) - len(missing),
        rows=plan.rows,
        rows_committed=plan.rows - sum(plan.rows_in(index) for index in missing),
        rows_journaled=count_rows(journal_folder(output, plan.job_id)),
    )
