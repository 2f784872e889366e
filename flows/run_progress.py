"""How far a run is, in its log and as a progress artifact in the Prefect UI.

Neither can fail the work or hold it up: Prefect sends log lines in the background, and the artifact
is sent by a thread of its own, which takes the newest state whenever it is ready for one. A server
that is away costs a bar that stands still.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from flows.reports import artifact_key
from pipelines.progress import Pace, describe, parse

LOG_INTERVAL_S = 10.0  # Prefect keeps every line in its database
_SEND_INTERVAL_S = 2.0
_LAST_WORD_S = 3.0  # how long the end of the work waits for its last update to be sent

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class RunProgress:
    """Turns progress lines and reports into log lines and one progress bar, until the block ends.

    `key` names the bar in the UI; without one there are only log lines.
    """

    def __init__(self, log: Log, key: str = "") -> None:
        self._log = log
        self._shown_at: dict[str, float] = {}
        self._paces: dict[str, Pace] = {}
        self._bar = _Bar(log, key) if key else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.end(finished=kind is None)

    def __call__(self, line: str) -> None:
        """Take one line that a stage printed; what is no progress is kept for debugging."""
        if (fields := parse(line)) is None:
            self._log.debug("%s", line)
            return
        self.report(
            float(fields["done"]), float(fields["total"]), str(fields["unit"]), str(fields["what"])
        )

    def report(self, done: float, total: float, unit: str, what: str) -> None:
        """Take one report, as `pipelines.progress.report` does; logged each LOG_INTERVAL_S."""
        now = time.monotonic()
        pace = self._paces.setdefault(what, Pace())
        pace.add(done, now)
        text = f"{what}: {describe(done, total, unit, pace)}"
        if self._bar is not None and total:
            self._bar.show(100 * done / total, text)
        if done < total and now - self._shown_at.get(what, -LOG_INTERVAL_S) < LOG_INTERVAL_S:
            return
        self._shown_at[what] = now
        self._log.info("%s", text)


class _Bar:
    """One progress artifact, made when there is something to show."""

    def __init__(self, log: Log, key: str) -> None:
        self._log, self._key = log, artifact_key(key)
        self._changed = threading.Condition()
        self._newest: tuple[float, str] | None = None
        self._ended = False
        # Prefect finds the run that an artifact belongs to in this thread's context.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._send_all,), daemon=True)
        self._thread.start()

    def show(self, percent: float, text: str) -> None:
        """Replace what waits to be sent."""
        with self._changed:
            self._newest = (min(100.0, percent), text)
            self._changed.notify()

    def end(self, *, finished: bool) -> None:
        """Send the last state, fully done if the work finished, and wait a moment for that."""
        with self._changed:
            if finished and self._newest is not None:
                self._newest = (100.0, self._newest[1])
            self._ended = True
            self._changed.notify()
        self._thread.join(_LAST_WORD_S)

    def _send_all(self) -> None:
        artifact: UUID | None = None
        sent: tuple[float, str] | None = None
        while True:
            with self._changed:
                while self._newest == sent and not self._ended:
                    self._changed.wait()
                newest, ended = self._newest, self._ended
            if newest is None or newest == sent:
                return
            artifact = self._send(artifact, *newest)
            sent = newest
            if not ended:
                with self._changed:
                    self._changed.wait_for(lambda: self._ended, _SEND_INTERVAL_S)

    def _send(self, artifact: UUID | None, percent: float, text: str) -> UUID | None:
        try:
            if artifact is None:
                made = create_progress_artifact(percent, key=self._key, description=text)
                assert isinstance(made, UUID)  # a coroutine only where an event loop runs
                return made
            update_progress_artifact(artifact, percent, description=text)
        except (httpx.HTTPError, PrefectException, OSError) as error:
            self._log.debug("the progress bar was not updated: %s", error)
        return artifact
