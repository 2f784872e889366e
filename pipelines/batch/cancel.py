"""Cancel: a marker beside the results, which every worker of a job looks for."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from pipelines.batch.layout import CANCEL, JOB, MANIFEST
from pipelines.batch.store import OutputStore, open_store
from pipelines.canonical import canonical_json
from pipelines.errors import JobCancelled, JobNotFinished


def cancel(output: str) -> bool:
    """Ask every worker of a job to stop after what is in flight; False when it has finished.

    Workers on any machine see the marker within seconds. What is done stays done, and the job
    stays cancelled until `lift`. Raises JobNotFinished when no job was planned there.
    """
    store = open_store(output)
    if not store.exists(JOB):
        raise JobNotFinished(output, f"there is no {JOB}: no job was planned here")
    if store.exists(MANIFEST):
        return False
    at = datetime.now(UTC).isoformat()
    store.create(CANCEL, canonical_json({"kind": "cancel", "at": at}) + b"\n")
    return True


def is_cancelled(store: OutputStore) -> bool:
    """Whether the job in an output location was cancelled and not resumed."""
    return store.exists(CANCEL)


def check_cancelled(store: OutputStore) -> None:
    """Raise JobCancelled when the job was cancelled and not resumed."""
    if is_cancelled(store):
        raise JobCancelled(store.location)


def cancelled_at(output: str) -> datetime | None:
    """When the job in an output location was cancelled; None when it was not, or was resumed."""
    data = open_store(output).read(CANCEL)
    return None if data is None else datetime.fromisoformat(json.loads(data)["at"])


def lift(output: str) -> None:
    """Let a cancelled job run again; nothing when it was not cancelled."""
    open_store(output).delete(CANCEL)
