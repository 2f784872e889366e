"""Progress lines: what is happening and how far it is, on standard error."""

from __future__ import annotations

import json
import os
import sys
import time

PROGRESS_VARIABLE = "WEIGHBRIDGE_PROGRESS"  # 'json' when a parent reads the lines

_INTERVAL_S = 0.5
_last: dict[str, float] = {}


def report(done: float, total: float, unit: str, what: str) -> None:
    """Say that `done` of `total` `unit` of `what` are done; at most two lines a second each.

    The last report of a piece of work (done == total) is always shown. With total 0 the amount
    is not known, and every report counts as one in between.
    """
    now = time.monotonic()
    if (done < total or not total) and now - _last.get(what, -1.0) < _INTERVAL_S:
        return
    _last[what] = now
    if os.environ.get(PROGRESS_VARIABLE) == "json":
        line = json.dumps({"what": what, "done": done, "total": total, "unit": unit})
        print(f"@progress {line}", file=sys.stderr, flush=True)
    else:
        share = f" ({100 * done / total:.0f} %)" if total else ""
        of = f" of {total:g}" if total else ""
        print(f"{what}: {done:g}{of} {unit}{share}", file=sys.stderr, flush=True)


def parse(line: str) -> dict[str, float | str] | None:
    """The fields of a progress line written in JSON form, or None for any other line."""
    if not line.startswith("@progress "):
        return None
    fields: dict[str, float | str] = json.loads(line.removeprefix("@progress "))
    return fields
