"""Nightly evaluation: whatever is out of date, in production and among the candidates.

DVC says what is out of date; the stalest comes first. A control is scored again although nothing
changed, so that a drift of the stack is seen before it is taken for a change of a model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from evals.drift import DriftReport
from evals.evidence import SuiteEvidence, read_suite
from evals.flips import changes
from flows import night_report
from flows.night_control import rescore
from flows.night_history import (
    NightChange,
    NightRecord,
    NightRow,
    NightScore,
    keep,
    past,
    scores_of,
)
from flows.night_plan import Budget, Evaluation, Purse, controls, evaluations
from flows.reports import publish_markdown, publish_table
from flows.stage_tasks import evidence, flow_workspace
from flows.steps import evaluate
from pipelines.errors import NothingEvaluated, UnusableEvidence, WeighbridgeError, WrongKindOfPath
from pipelines.records import EvaluationRecord
from pipelines.settings import Settings
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace

COMPLETED, REGRESSED = "weighbridge.nightly.completed", "weighbridge.nightly.regressed"
NO_BUDGET = Budget()


def _run_name() -> str:
    return f"nightly {flow_run.scheduled_start_time:%Y-%m-%d}"


@flow(name="nightly-evaluation", flow_run_name=_run_name)
def nightly_evaluation(
    models: Annotated[tuple[str, ...], Field(json_schema_extra={"title": "Models"})] = (),
    control: Annotated[str, Field(json_schema_extra={"title": "Control"})] = "",
    budget: Annotated[Budget, Field(json_schema_extra={"title": "Budget"})] = NO_BUDGET,
) -> State[tuple[NightRow, ...]]:
    """Evaluate every model of the registry on its suites, unless DVC says that nothing changed.

    The stalest evaluation comes first. One model that fails does not stop the others. A night in
    which nothing that was due could be done is a failure; one in which some failed ends as
    'Completed with failures'.

    Args:
        models: Names of the models to look at. Leave empty for all of them.
        control: A model that is scored again although nothing changed, or 'production'.
        budget: What the night may take. What does not fit is left out, and named in the report.
    """
    purse = Purse(budget, time.monotonic)
    began = datetime.now(UTC)
    with flow_workspace() as workspace:
        again = controls(workspace.root, control)
        listed = evaluations(workspace.root, models)
        current = workspace.current()
        rows, found, drifts = [], [], []
        for key in again:
            row, report = _control(workspace.settings, key, purse, f"{began:%Y%m%dT%H%M%SZ}")
            rows.append(row)
            drifts += [report] if report else []
        for each in listed:
            row, changed = _row(workspace, each, purse, began, f"evaluate@{each.key}" in current)
            rows.append(row)
            found += changed
        night = NightRecord(
            began_at=began.isoformat(timespec="seconds"),
            rows=tuple(rows),
            scores=tuple(_scores(workspace, listed)),
            changes=tuple(found),
            drift=tuple(drifts),
        )
        _report(workspace.settings, night)
    return _end(night)


def _row(
    workspace: Workspace, each: Evaluation, purse: Purse, now: datetime, is_current: bool
) -> tuple[NightRow, list[NightChange]]:
    row = NightRow(
        evaluation=each.key,
        role=each.role,
        age=each.age(now),
        outcome="current",
        detail="nothing it rests on changed",
    )
    if is_current:
        return row, []
    if why := purse.refusal(each.seconds):
        return row.model_copy(update={"outcome": "left out", "detail": why}), []
    before = _items(workspace, each)
    began = time.monotonic()
    try:
        record = evaluate(workspace, each.key)
    except WeighbridgeError as error:
        get_run_logger().error("%s: %s", each.key, error)
        return _timed(row, purse, began, "failed", str(error)), []
    scores = ", ".join(f"{task.task} {task.value:.3f}" for task in record.tasks)
    after = _items(workspace, each)
    made = changes(before, after) if before and after else []
    done = _timed(row, purse, began, "evaluated", scores)
    return done, [NightChange(evaluation=each.key, change=change) for change in made]


def _timed(row: NightRow, purse: Purse, began: float, outcome: str, detail: str) -> NightRow:
    seconds = round(time.monotonic() - began, 1)
    update = {"seconds": seconds, "cost_usd": purse.cost_usd(seconds)}
    return row.model_copy(update={"outcome": outcome, "detail": detail, **update})


def _items(workspace: Workspace, each: Evaluation) -> SuiteEvidence | None:
    """The items of an evaluation as it lies there, to compare; None where there is nothing whole.

    Results of a version before this one may not be readable: then there is no comparison, and the
    new evaluation stands for itself.
    """
    folder = Layout(workspace.root).evaluation(each.entry.model, each.entry.suite)
    try:
        return read_suite(folder)
    except (UnusableEvidence, WrongKindOfPath) as error:
        get_run_logger().info("%s is compared with nothing: %s", each.key, error)
        return None


def _control(
    settings: Settings, key: str, purse: Purse, night: str
) -> tuple[NightRow, DriftReport | None]:
    row = NightRow(evaluation=key, role="control", outcome="left out", detail="")
    if why := purse.refusal(0.0):
        return row.model_copy(update={"detail": why}), None
    began = time.monotonic()
    try:
        report = score_control_again(settings, key, night)
    except WeighbridgeError as error:
        get_run_logger().error("control %s: %s", key, error)
        return _timed(row, purse, began, "failed", str(error)), None
    facts = "; ".join(finding.fact for finding in report.findings)
    words = facts or f"{report.items} items came out as recorded"
    outcome = "drifted" if report.drifted else "no drift"
    return _timed(row, purse, began, outcome, words), report


@task(name="control", task_run_name="control {key}", cache_policy=NO_CACHE)
def score_control_again(settings: Settings, key: str, night: str) -> DriftReport:
    """`rescore` as a task, so that its time and its failure are seen in the run."""
    return rescore(settings, key, night)


def _scores(workspace: Workspace, listed: Sequence[Evaluation]) -> list[NightScore]:
    """What the registry states of every evaluation that it holds."""
    found = []
    for each in listed:
        folder = Layout(workspace.root).evaluation(each.entry.model, each.entry.suite)
        if folder.is_dir() or each.finished_at is not None:
            record = evidence(workspace, folder / "evaluation.json", EvaluationRecord)
            found += scores_of(record)
    return found


def _report(settings: Settings, night: NightRecord) -> None:
    path = keep(settings, night)
    nights = past(settings)
    html = path.with_suffix(".html")
    html.write_text(night_report.html_page(nights), encoding="utf-8")
    get_run_logger().info("the night is kept in %s and %s", path, html)
    rows = [night_report.table_row(row) for row in night.rows]
    publish_table("nightly-evaluation", rows, "Last night")
    publish_markdown("nightly-report", night_report.page(nights), "Last night, and the trend")
    _emit(night)


def _emit(night: NightRecord) -> None:
    """Tell automations: one event a night, and another where something got worse or drifted."""
    resource = {"prefect.resource.id": "weighbridge.nightly", "prefect.resource.name": "nightly"}
    outcomes = [row.outcome for row in night.rows]
    payload = {
        "began_at": night.began_at,
        "outcomes": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        "regressed": [f"{each.evaluation}: {each.change.task}" for each in night.regressions],
        "drifted": [f"{report.name} on {report.suite}" for report in night.drifted],
    }
    emit_event(event=COMPLETED, resource=resource, payload=payload)
    if night.regressions or night.drifted:
        emit_event(event=REGRESSED, resource=resource, payload=payload)


def _end(night: NightRecord) -> State[tuple[NightRow, ...]]:
    """A failure where nothing that was due could be done; all current is none."""
    rows = night.rows
    undone = [row for row in rows if row.outcome in ("failed", "left out")]
    done = [row for row in rows if row.outcome in ("evaluated", "no drift", "drifted")]
    if undone and not done:
        raise NothingEvaluated([f"{row.evaluation}: {row.detail}" for row in undone])
    counts = [f"{len(done)} evaluated", f"{len(rows) - len(done) - len(undone)} current"]
    failed = sum(row.outcome == "failed" for row in rows)
    counts += [f"{failed} failed"] if failed else []
    counts += [f"{len(undone) - failed} left out"] if len(undone) > failed else []
    message = ", ".join(counts)
    if failed:
        return Completed(name="Completed with failures", message=message, data=rows)
    return Completed(message=message, data=rows)
