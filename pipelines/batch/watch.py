"""Watch: a thread beside the engine that says what is spent and finds out when to stop."""

from __future__ import annotations

import threading

from pipelines.batch.cancel import check_cancelled
from pipelines.batch.layout import MANIFEST
from pipelines.batch.limits import check_spent, price_usd_per_hour
from pipelines.batch.records import JobPlan, WorkerRequest
from pipelines.batch.rows import Row
from pipelines.batch.store import OutputStore
from pipelines.batch.usage import Meter, WorkerUsage, read_usage, spent, write_usage
from pipelines.errors import StoreFailed, WeighbridgeError

INTERVAL_S = 2.0


class Watch:
    """Looks every INTERVAL_S whether the job was cancelled, finished by others, or too dear.

    A worker asks `stopping` before it sends anything; what is in flight then ends as usual.
    Tokens are counted against the limit as rows settle, and what other workers spent as of their
    last word, so a limit is passed by what was in flight at most, times the number of workers.
    """

    def __init__(self, request: WorkerRequest, plan: JobPlan, store: OutputStore) -> None:
        self._job, self._name, self._store = request.job, plan.job.name, store
        self._price = price_usd_per_hour(request.job.limits)
        self._meter = Meter(request.worker, request.workers, self._price)
        self._others: dict[str, WorkerUsage] = {}
        self._others_tokens = 0
        self._error: WeighbridgeError | None = None
        self._stopping = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Look once now, so that no engine is started in vain, then every INTERVAL_S."""
        self._look()
        self._thread.start()

    def add(self, row: Row) -> None:
        """Count a settled row."""
        self._meter.add(row)
        limit = self._job.limits.max_tokens
        if limit is not None and not self._stopping:
            now = self._meter.now()
            if self._others_tokens + now.prompt_tokens + now.completion_tokens >= limit:
                self._check()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be sent to the engine."""
        return self._stopping

    def raise_if_stopped(self) -> None:
        """Raise why the worker had to stop; nothing when others have finished the job."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread and say the last word, unless the job is finished and tidied."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._say(ended=True)

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        try:
            if self._store.exists(MANIFEST):
                self._stopping = True
                return
            check_cancelled(self._store)
            self._others = read_usage(self._store, self._others)
            self._others.pop(self._meter.name, None)
            self._check()
            self._say()
        except StoreFailed:  # a store that is away is the committer's to report; look again soon
            return
        except WeighbridgeError as error:
            self._stop(error)

    def _check(self) -> None:
        now = self._meter.now()
        others = list(self._others.values())
        self._others_tokens = sum(o.prompt_tokens + o.completion_tokens for o in others)
        try:
            check_spent(self._name, self._job.limits, spent([*others, now], self._price))
        except WeighbridgeError as error:
            self._stop(error)

    def _stop(self, error: WeighbridgeError) -> None:
        self._error = self._error or error
        self._stopping = True

    def _say(self, *, ended: bool = False) -> None:
        try:
            if not (ended and self._store.exists(MANIFEST)):
                write_usage(self._store, self._meter.name, self._meter.now(ended=ended))
        except (StoreFailed, FileNotFoundError):  # away, or tidied as the job is finished
            return
