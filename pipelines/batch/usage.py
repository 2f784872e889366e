"""Usage: what each worker has spent so far, written beside the results while a job runs.

Every run of a worker keeps one object under workers/ and replaces it every few seconds. Together
they are the job's ledger: limits are checked against their sum, and `status` reads them from
anywhere. They hold wall-clock time and go away when the job is finished; their sum is in run.json.
A worker that is killed loses from the ledger what it spent since its last word.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from pipelines.batch.layout import WORKERS
from pipelines.batch.records import Spent
from pipelines.batch.store import OutputStore
from pipelines.canonical import Frozen, record_bytes

if TYPE_CHECKING:
    from pipelines.batch.rows import Row

SILENT_S = 30.0  # without a word for so long, a worker counts as gone; clocks may differ a little


class WorkerUsage(Frozen):
    """One run of one worker, as of its last word; times in seconds since 1970, UTC."""

    host: str
    pid: int
    share: str = Field(description="which worker of how many, as '1/2'")
    started_at: float
    at: float = Field(description="when this was written")
    ended: bool = False
    usd_per_hour: float | None = None
    answering_since: float | None = Field(default=None, description="its first answered row")
    rows: int = Field(default=0, description="rows that the engine answered in this run")
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    errors: dict[str, int] = Field(default={}, description="error class to rows, of this run")

    @property
    def seconds(self) -> float:
        """How long the worker has had its machine."""
        return max(0.0, self.at - self.started_at)

    def rows_per_s(self) -> float | None:
        """Answers a second since the first one; None when it cannot be told yet."""
        since = self.answering_since
        return None if since is None or self.at - since < 1 else self.rows / (self.at - since)

    def alive(self, now: float) -> bool:
        """Whether the worker has said something lately and has not ended."""
        return not self.ended and now - self.at < SILENT_S


class Meter:
    """Counts what this worker spends; read by another thread while the worker counts on."""

    def __init__(self, worker: int, workers: int, usd_per_hour: float | None) -> None:
        self.name = f"{WORKERS}{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.json"
        self._first = WorkerUsage(
            host=socket.gethostname(),
            pid=os.getpid(),
            share=f"{worker + 1}/{workers}",
            started_at=time.time(),
            at=time.time(),
            usd_per_hour=usd_per_hour,
        )
        self._errors: Counter[str] = Counter()
        self._rows = self._prompt = self._completion = self._cached = 0
        self._since: float | None = None

    def add(self, row: Row) -> None:
        """Count a row that was settled, with all its attempts; planned errors are not spent."""
        if row.attempts:
            self._rows += 1
            self._since = self._since or time.time()
        self._prompt += row.attempts * row.prompt_tokens
        self._completion += row.completion_tokens
        self._cached += row.cached_tokens
        late = row.attempts or row.error_class == "document_changed" or row.chunk < 0
        if row.error_class is not None and late:  # others are planned errors
            self._errors[row.error_class] += 1

    def now(self, *, ended: bool = False) -> WorkerUsage:
        """What was spent up to this moment."""
        return self._first.model_copy(
            update={
                "at": time.time(),
                "ended": ended,
                "answering_since": self._since,
                "rows": self._rows,
                "prompt_tokens": self._prompt,
                "completion_tokens": self._completion,
                "cached_tokens": self._cached,
                "errors": dict(self._errors),
            }
        )


def write_usage(store: OutputStore, name: str, usage: WorkerUsage) -> None:
    """Replace one worker's entry."""
    store.replace(name, record_bytes(usage))


def read_usage(store: OutputStore, known: dict[str, WorkerUsage]) -> dict[str, WorkerUsage]:
    """All entries by name; those that `known` has as ended or long gone are not read again."""
    entries: dict[str, WorkerUsage] = {}
    now = time.time()
    for name in store.names(WORKERS):
        old = known.get(name)
        if old is not None and (old.ended or now - old.at > 10 * SILENT_S):
            entries[name] = old
        elif (data := store.read(name)) is not None:
            try:
                entries[name] = WorkerUsage.model_validate_json(data)
            except ValidationError:  # of another version: what it spent is not known to us
                continue
    return entries


def spent(entries: Iterable[WorkerUsage], usd_per_hour: float | None = None) -> Spent:
    """The sum of a ledger; an entry without a price has that of `usd_per_hour`.

    Dollars are known when every entry has a price.
    """
    entries = list(entries)
    prices = [entry.usd_per_hour or usd_per_hour for entry in entries]
    dollars = [
        entry.seconds / 3600 * price
        for entry, price in zip(entries, prices, strict=True)
        if price is not None
    ]
    began = min((entry.started_at for entry in entries), default=None)
    return Spent(
        prompt_tokens=sum(entry.prompt_tokens for entry in entries),
        completion_tokens=sum(entry.completion_tokens for entry in entries),
        cached_tokens=sum(entry.cached_tokens for entry in entries),
        worker_s=round(sum(entry.seconds for entry in entries), 3),
        usd=sum(dollars) if entries and len(dollars) == len(entries) else None,
        began_at="" if began is None else datetime.fromtimestamp(began, UTC).isoformat(),
    )
