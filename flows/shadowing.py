"""Shadow runs from the command line: sample, answer, compare, publish the record."""

from __future__ import annotations

import resource
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flows.batch_model import egress_rules
from pipelines.batch.finished import Finished, finished_job
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.batch.shadow import (
    RECORD,
    ShadowRecord,
    compare,
    disagreements,
    sample,
    shadow_job,
    write_documents,
)
from pipelines.candidates import candidate
from pipelines.canonical import write_record
from pipelines.records import RunInfo
from pipelines.settings import Settings
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace

_DIFFERENCES_SHOWN = 10


class Shadowed(NamedTuple):
    """What a shadow run found, and where its answers lie on this machine."""

    record: ShadowRecord
    answers: str
    differences: tuple[tuple[str, str, str], ...]


def run_shadow(
    settings: Settings, output: str, name: str, documents: int, *, publish: bool
) -> Shadowed:
    """Let the candidate `name` answer a sample of a finished job, and compare.

    Killed, the same call goes on. With `publish` the record becomes evidence/NAME/shadow/ in the
    registry, where promotion reads it. Raises what `candidate`, `run_batch` and `compare` raise.
    """
    began, clock = datetime.now(UTC), time.monotonic()
    production = finished_job(output)
    with open_workspace(settings) as workspace:
        held = candidate(workspace, name)
        model = ModelOnDisk(**held._asdict())
        folder = _folder(settings, production, held.weight_digest, documents)
        sampled = folder / "documents.jsonl"
        try:
            write_documents(production.plan.job, sample(production, documents), sampled)
            job = shadow_job(production.plan.job, name, sampled, folder / "out")
            run_batch(job, model, egress=egress_rules(settings))
        finally:
            sampled.unlink(missing_ok=True)  # a copy of documents outlives no run
        shadow = finished_job(job.output)
        record = compare(name, production, shadow)
        if publish:
            _publish(workspace, record, _run_info(name, began, clock))
    different = tuple(disagreements(production, shadow, _DIFFERENCES_SHOWN))
    return Shadowed(record, job.output, different)


def _folder(settings: Settings, production: Finished, weights: str, documents: int) -> Path:
    """One place for one comparison, so that a killed one is found again."""
    name = f"{production.plan.job_id[:16]}-{weights[:16]}-{documents}"
    folder = settings.home / "shadow" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _publish(workspace: Workspace, record: ShadowRecord, info: RunInfo) -> None:
    def apply(root: Path) -> list[str]:
        folder = Layout(root).shadow(record.name)
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / RECORD, record)
        write_record(folder.with_name(f"{folder.name}.run.json"), info)
        return []

    workspace.change(f"Shadow run of {record.name}", apply)


def _run_info(name: str, began: datetime, clock: float) -> RunInfo:
    return RunInfo(
        stage=f"shadow@{name}",
        started_at=began.isoformat(timespec="seconds"),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - clock, 3),
        cpu_s=round(time.process_time(), 3),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        host=socket.gethostname(),
    )
