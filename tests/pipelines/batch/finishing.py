"""Runs a job within the test's own process, and reads what it left."""

from __future__ import annotations

import io
from typing import Any

import pyarrow.parquet as pq
from scripted_engine import Script, ScriptedEngine

from pipelines.batch.engine import Engine, EngineConfig
from pipelines.batch.job import BatchJob
from pipelines.batch.layout import journal_folder
from pipelines.batch.manifest import count, write_manifest
from pipelines.batch.plan import plan
from pipelines.batch.records import BatchManifest, JobPlan, ModelOnDisk, WorkerReport, WorkerRequest
from pipelines.batch.store import open_store
from pipelines.batch.worker import work


class Engines:
    """Makes scripted engines and remembers them."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.made: list[ScriptedEngine] = []

    def __call__(self, config: EngineConfig) -> Engine:
        self.made.append(ScriptedEngine(config, self.script))
        return self.made[-1]


def do_work(
    job: BatchJob, model: ModelOnDisk, engines: Engines, worker: int = 0, workers: int = 1
) -> WorkerReport:
    """Plan, if need be, and do one worker's work."""
    planned = plan(job, model)
    journal = journal_folder(job.output, planned.job_id)
    request = WorkerRequest(job=job, model=model, journal=journal, worker=worker, workers=workers)
    return work(request, engines)


def finish(job: BatchJob, model: ModelOnDisk, script: Script | None = None) -> BatchManifest:
    """A whole job with a scripted engine."""
    do_work(job, model, Engines(script))
    store = open_store(job.output)
    manifest = count(plan(job, model), store, job.limits.max_error_rate)
    write_manifest(manifest, store)
    return manifest


def rows_of(output: str, planned: JobPlan) -> list[dict[str, Any]]:
    """All committed rows in shard order."""
    store = open_store(output)
    rows: list[dict[str, Any]] = []
    for index in range(len(planned.shards)):
        data = store.read(f"shards/shard-{index:06}.parquet")
        if data is not None:
            rows += pq.read_table(io.BytesIO(data)).to_pylist()
    return rows
