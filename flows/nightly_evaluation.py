"""Nightly evaluation: whatever is out of date, in production and among the candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.reports import Row, publish_table
from flows.stage_tasks import flow_workspace
from flows.steps import evaluate
from pipelines.canonical import Frozen
from pipelines.errors import ConfigError, NothingEvaluated, UnknownName, WeighbridgeError
from pipelines.models_file import load_models
from pipelines.store.workspace import Workspace

Outcome = Literal["current", "evaluated", "failed"]


class NightRow(Frozen):
    """What became of one evaluation."""

    evaluation: str
    outcome: Outcome
    detail: str


def _run_name() -> str:
    return f"nightly {flow_run.scheduled_start_time:%Y-%m-%d}"


@flow(name="nightly-evaluation", flow_run_name=_run_name)
def nightly_evaluation(
    models: Annotated[tuple[str, ...], Field(json_schema_extra={"title": "Models"})] = (),
) -> State[tuple[NightRow, ...]]:
    """Evaluate every model of the registry on its suites, unless DVC says that nothing changed.

    One model that fails does not stop the others. A night in which everything that was due failed
    is a failure; one in which some did ends as 'Completed with failures'.

    Args:
        models: Names of the models to look at. Leave empty for all of them.
    """
    with flow_workspace() as workspace:
        keys = _keys(workspace, models)
        current = workspace.current()
        due = [key for key in keys if f"evaluate@{key}" not in current]
        rows = tuple(
            _attempt(workspace, key)
            if key in due
            else NightRow(evaluation=key, outcome="current", detail="nothing it rests on changed")
            for key in keys
        )
    publish_table("nightly-evaluation", [_table_row(row) for row in rows], "Last night")
    failed = [f"{row.evaluation}: {row.detail}" for row in rows if row.outcome == "failed"]
    if failed and len(failed) == len(due):
        raise NothingEvaluated(failed)
    if failed:
        message = f"{len(due) - len(failed)} evaluated, {len(failed)} failed"
        return Completed(name="Completed with failures", message=message, data=rows)
    return Completed(message=f"{len(due)} evaluated, {len(rows) - len(due)} current", data=rows)


def _keys(workspace: Workspace, models: tuple[str, ...]) -> list[str]:
    file = load_models(workspace.root)
    for name in models:
        if name not in file.weights():
            raise UnknownName("models.yaml", "model or tuning", name, file.weights())
    keys = [key for key, entry in file.evaluations.items() if not models or entry.model in models]
    if not keys:
        raise ConfigError("models.yaml", "there is nothing to evaluate", "Onboard a model first.")
    return keys


def _attempt(workspace: Workspace, key: str) -> NightRow:
    try:
        record = evaluate(workspace, key)
    except WeighbridgeError as error:
        get_run_logger().error("%s: %s", key, error)
        return NightRow(evaluation=key, outcome="failed", detail=str(error))
    scores = ", ".join(f"{task.task} {task.value:.3f}" for task in record.tasks)
    return NightRow(evaluation=key, outcome="evaluated", detail=scores)


def _table_row(row: NightRow) -> Row:
    return {"evaluation": row.evaluation, "outcome": row.outcome, "detail": row.detail}
