"""Progress lines: what is happening, how far it is, how fast it goes and how long it will take."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque

PROGRESS_VARIABLE = "WEIGHBRIDGE_PROGRESS"  # 'json' when a parent reads the lines

_INTERVAL_S = 0.5
_WINDOW_S = 20.0  # the rate is that of the last seconds, not of a start that was slow
_last: dict[str, float] = {}


class Pace:
    """Rate and time left of one piece of work, from what was reported of it lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, done: float, now: float) -> None:
        """Take one report, `now` in seconds of any clock that does not go back."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW_S:
            self._seen.popleft()

    def rate(self) -> float:
        """Units per second over the window; 0.0 when it cannot be told."""
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return max(0.0, (last - first) / (ended - began)) if ended > began else 0.0

    def left_s(self, total: float) -> float | None:
        """Seconds that the rest takes at this rate, or None when it cannot be told."""
        rate = self.rate()
        return max(0.0, total - self._seen[-1][1]) / rate if rate and total else None


_paces: dict[str, Pace] = {}


def report(done: float, total: float, unit: str, what: str) -> None:
    """Say that `done` of `total` `unit` of `what` are done; at most two lines a second each.

    The last report of a piece of work (done == total) is always shown. With total 0 the amount
    is not known, and every report counts as one in between.
    """
    now = time.monotonic()
    pace = _paces.setdefault(what, Pace())
    ended = bool(total) and done >= total
    if not ended and now - _last.get(what, -1.0) < _INTERVAL_S:
        return
    pace.add(done, now)
    _last[what] = now
    if os.environ.get(PROGRESS_VARIABLE) == "json":
        line = json.dumps({"what": what, "done": done, "total": total, "unit": unit})
        print(f"@progress {line}", file=sys.stderr, flush=True)
    else:
        text = describe(done, total, unit, pace)
        print(f"{what}: {text}", file=sys.stderr, flush=True)
    if ended:
        del _paces[what], _last[what]  # the same work may come again, with a pace of its own


def describe(done: float, total: float, unit: str, pace: Pace) -> str:
    """'12.3 of 45 MB (27 %), 8.1 MB/s, 4 s left', without what cannot be told."""
    share = f" ({100 * done / total:.0f} %)" if total else ""
    of = f" of {total:g}" if total else ""
    text = f"{done:g}{of} {unit}{share}"
    if (rate := pace.rate()) and unit != "s":
        text += f", {rate:.3g} {unit}/s"
    left = pace.left_s(total)
    if left is not None and done < total:
        text += f", {duration(left)} left"
    return text


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Meter:
    """Progress of a known number of bytes, in MB; any thread may add to it."""

    def __init__(self, what: str, total_bytes: int) -> None:
        self._what, self._total, self._done = what, total_bytes, 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count `count` more bytes as done, and say so."""
        with self._lock:
            self._done += count
            done, total = (round(size / 1e6, 1) for size in (self._done, self._total))
            if done < total or self._done >= self._total:  # rounded up, it is not the end yet
                report(done, total, "MB", self._what)


def parse(line: str) -> dict[str, float | str] | None:
    """The fields of a progress line written in JSON form, or None for any other line."""
    if not line.startswith("@progress "):
        return None
    fields: dict[str, float | str] = json.loads(line.removeprefix("@progress "))
    return fields
