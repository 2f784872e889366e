"""Recovery: a worker whose engine died is started again, until the document that kills it is found.

Rows that were in the engine when it died are suspects. The next worker asks them first, an eighth
of them at a time; if it dies, those in it then are the suspects, and so on down to one row alone.
A row with which an engine died alone, twice, becomes an error row. Suspects that are answered are
innocent, also when they kill only in company. So one culprit among 512 requests costs five engine
starts, and every other row is answered in batches all the while.

The marks lie beside the journal. So when this process dies with its child, as in a container that
is killed as a whole, the next run knows what the last ones died of.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import NamedTuple

from pipelines.batch.in_flight import rows_in
from pipelines.batch.records import WorkerReport, WorkerRequest
from pipelines.errors import CommandFailed, EngineDied, EngineKeepsDying
from pipelines.subprocesses import run_module

_SHRINK = 8
_CERTAIN = 2  # deaths with one row alone that make it the culprit: one may be a coincidence
_TAIL = 1500  # characters of a dead worker's output that its row quotes
_UNSEEN = "the engine's process ended with this row alone in it, twice"

Deaths = Sequence[frozenset[int]]


class Diagnosis(NamedTuple):
    """What earlier deaths mean for the next start."""

    suspects: tuple[int, ...]
    at_once: int
    killers: frozenset[int]


def attend(
    module: str,
    request: WorkerRequest,
    on_line: Callable[[str], None],
) -> WorkerReport:
    """Run a worker to its end, whatever kills its engine.

    Raises EngineKeepsDying after `engine.restarts` restarts, and CommandFailed for a worker that
    died before any row was in its engine, was told to end (SIGTERM, SIGINT), or failed by a fault
    of ours. With `engine.restarts` 0 it raises what the first death was.
    """
    restarts, ends = request.job.engine.restarts, dict[int, str]()
    for deaths in range(restarts + 1):
        request = _informed(request, ends, observed=deaths > 0)
        assert request.in_flight is not None
        failure: CommandFailed | None = None
        try:
            answer = run_module(module, request, env=request.environment, on_line=on_line)
            report = WorkerReport.model_validate(answer)
        except CommandFailed as error:
            if not _is_death(error):
                raise
            failure, end = error, _how(error)
        else:
            if report.stopped is None or report.stopped.error != EngineDied.__name__:
                _forget(request)
                return report.model_copy(update={"engine_deaths": deaths})
            end = report.stopped.message
        rows = rows_in(request.in_flight)
        if not rows or not restarts:  # no document is to blame, or nobody is to look for it
            if failure is not None:
                raise failure
            return report
        if len(rows) == 1:
            ends[next(iter(rows))] = end
    raise EngineKeepsDying(request.job.name, restarts, sorted(request.killers), end)


def diagnose(deaths: Deaths, *, observed: bool) -> Diagnosis:
    """Suspects and culprits, from the rows in the engine at each death, oldest first.

    A death that nobody `observed` may have been a kill by hand: two of them in a row must share
    rows to make these suspects.
    """
    alone = Counter(row for death in deaths if len(death) == 1 for row in death)
    killers = frozenset(row for row, times in alone.items() if times >= _CERTAIN)
    if not deaths or (len(deaths) < _CERTAIN and not observed):
        return Diagnosis((), 1, killers)
    last = deaths[-1]
    if not observed:
        last = last & deaths[-2]
    elif last <= killers:  # the culprit is found: go on with those that were beside it before
        last = next((death for death in reversed(deaths) if len(death) > 1), last)
    suspects = tuple(sorted(last - killers))
    at_once = 1 if deaths[-1] <= killers else max(1, len(suspects) // _SHRINK)
    return Diagnosis(suspects, at_once, killers)


def _informed(request: WorkerRequest, ends: Mapping[int, str], *, observed: bool) -> WorkerRequest:
    """The request for the next start, with a new file to mark its rows in."""
    deaths = [rows for path in _marks(request) if (rows := rows_in(path))]
    found = diagnose(deaths, observed=observed)
    name = f"{_prefix(request)}{time.time_ns():020}-{os.getpid()}.rows"
    return request.model_copy(
        update={
            "in_flight": request.journal / name,
            "suspects": found.suspects,
            "suspects_at_once": found.at_once,
            "killers": {row: ends.get(row, _UNSEEN) for row in sorted(found.killers)},
        }
    )


def _prefix(request: WorkerRequest) -> str:
    return f"in-flight-{request.worker}-"


def _marks(request: WorkerRequest) -> list[Path]:
    """What earlier starts of this worker left, oldest first."""
    return sorted(request.journal.glob(f"{_prefix(request)}*.rows"))


def _forget(request: WorkerRequest) -> None:
    """Drop the marks: the worker ended in order, so nothing is to be learnt from them."""
    for path in _marks(request):
        path.unlink(missing_ok=True)


def _is_death(error: CommandFailed) -> bool:
    """Whether a worker was brought down, rather than told to end or failed by a fault of ours.

    An exception of the engine comes as EngineDied; any other one is our own.
    """
    if error.returncode in (-SIGTERM, -SIGINT):
        return False
    return not (error.returncode == 1 and "Traceback (most recent call last)" in error.output)


def _how(error: CommandFailed) -> str:
    """How a process ended, for the row that ended it."""
    code = error.returncode
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    said = error.output.strip()[-_TAIL:]
    return f"the engine's process {how} with this row alone in it" + (f": {said}" if said else "")
