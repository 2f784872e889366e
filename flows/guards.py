"""What every flow checks before it works."""

from __future__ import annotations

from prefect.runtime import flow_run

from pipelines.errors import RestartedTooOften

MAX_STARTS = 4  # the first one, and three after crashes


def refuse_endless_restarts() -> None:
    """Raise RestartedTooOften when this flow run has been started more than MAX_STARTS times.

    The automation that starts crashed runs again counts nothing, so a run that takes its worker
    down each time would do so for ever.
    """
    starts = flow_run.run_count
    if starts is not None and starts > MAX_STARTS:
        raise RestartedTooOften(str(flow_run.name), starts)
