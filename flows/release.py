"""Release: the whole chain, from a reference to a batch job, as one flow run.

ingest → verify → evaluate → fine-tune → verify → evaluate → gate → promote → batch, each step a
subflow that can also be run by itself. All of them work in one clone of the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

from prefect import flow, get_run_logger
from pydantic import Field

from flows.batch_inference import BatchResult, batch_inference
from flows.finetune import finetune
from flows.gate import gate
from flows.onboard import onboard
from flows.parameters import COMMERCIAL_USE, BatchForm, GateForm, ModelForm, TuningForm, UseForm
from flows.promote import promote
from flows.reports import CandidateReport, ReleaseReport, candidates_markdown, publish_markdown
from flows.stage_tasks import flow_workspace
from pipelines.errors import NoCandidatePassed, Refused
from pipelines.records import Release, Verdict


@flow(name="release", flow_run_name="release {rule.release}")
def release(
    base: Annotated[ModelForm, Field(json_schema_extra={"title": "Base model"})],
    candidates: Annotated[
        tuple[TuningForm, ...], Field(min_length=1, json_schema_extra={"title": "Candidates"})
    ],
    suites: Annotated[tuple[str, ...], Field(json_schema_extra={"title": "Suites"})],
    rule: Annotated[GateForm, Field(json_schema_extra={"title": "Gate"})],
    use: Annotated[UseForm, Field(json_schema_extra={"title": "Declared use"})] = COMMERCIAL_USE,
    batch: Annotated[BatchForm | None, Field(json_schema_extra={"title": "Batch job"})] = None,
) -> ReleaseReport:
    """Bring a base in, tune candidates, gate each, promote the first that passes, run a batch job.

    A refused candidate is part of the report. When none passes, nothing is promoted and this run
    fails with every reason; what is in production stays.

    Args:
        base: The model that the candidates are tuned from.
        candidates: What to train, in order of preference.
        suites: Evaluation suites for the base and for every candidate.
        rule: The release line, the policy and the baseline.
        use: What these models are for; read when they are new.
        batch: A job to run with the release. Leave as None for none.
    """
    with flow_workspace():
        onboarded = onboard(base, suites, use)
        judged = [judge(base.name, tuning, suites, use, rule) for tuning in candidates]
        passing = [report for report in judged if report.outcome != "refused"]
        released = promote(passing[0].name) if passing else None
        reports = tuple(_after_promotion(report, released) for report in judged)
        publish_markdown(
            f"verdicts-{rule.release}",
            candidates_markdown(rule.release, reports, released),
            f"Verdicts of the release line {rule.release}",
        )
        if released is None:
            raise NoCandidatePassed(rule.release, _why_none(reports))
        output = ""
        if batch is not None:
            # A cancelled run raises here, so what comes back is a result.
            done = batch_inference(batch.documents, batch.question, batch.job)
            output = cast(BatchResult, done).output
        return ReleaseReport(
            base=onboarded, candidates=reports, release=released, batch_output=output
        )


def judge(
    base: str, tuning: TuningForm, suites: Sequence[str], use: UseForm, rule: GateForm
) -> CandidateReport:
    """Train, verify, evaluate and gate one candidate; whatever refuses it is its reason."""
    try:
        finetune(base, tuning, tuple(suites), use)
        verdict = gate(tuning.name, rule)
    except Refused as refusal:
        get_run_logger().warning("%s is refused: %s", tuning.name, refusal)
        return CandidateReport(name=tuning.name, outcome="refused", reasons=(str(refusal),))
    outcome = "passed, not promoted" if verdict.outcome == "pass" else "refused"
    return CandidateReport(
        name=tuning.name, outcome=outcome, reasons=_reasons(verdict), verdict=verdict
    )


def _reasons(verdict: Verdict) -> tuple[str, ...]:
    return verdict.reasons or tuple(f"{task.task}: {task.reason}" for task in verdict.tasks)


def _after_promotion(report: CandidateReport, released: Release | None) -> CandidateReport:
    if released is not None and report.name == released.model:
        return report.model_copy(update={"outcome": "promoted"})
    return report


def _why_none(reports: Sequence[CandidateReport]) -> list[str]:
    return [f"{report.name}: {', '.join(report.reasons)}" for report in reports]
