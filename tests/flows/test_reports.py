"""Reports tell what records say, and never fail the work that they report on."""

from __future__ import annotations

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.reports import (
    CandidateReport,
    artifact_key,
    candidates_markdown,
    publish_markdown,
    publish_table,
    score_rows,
)
from flows.server import PrefectServer, free_port
from pipelines.records import EvaluationRecord, TaskResult, TaskVerdict, Verdict

TASK = TaskVerdict(
    task="mail/urgent",
    outcome="block",
    items=300,
    candidate=0.5,
    baseline=0.6,
    difference=-0.1,
    interval=(-0.16, -0.04),
    margin=0.02,
    smallest_margin=0.031,
    reason="a loss of up to 0.16 cannot be excluded",
)
VERDICT = Verdict(
    name="worse",
    weight_digest="a" * 64,
    baseline="base",
    baseline_digest="b" * 64,
    outcome="block",
    reasons=("0 of 1 tasks pass", "mail/urgent: a loss | of up to 0.16"),
    tasks=(TASK,),
    policy="default",
    policy_sha256="c" * 64,
    code_digest="d" * 64,
    evidence={},
)


def test_refused_candidate_is_in_the_table_with_its_reasons_and_numbers() -> None:
    refused = CandidateReport(
        name="worse", outcome="refused", reasons=VERDICT.reasons, verdict=VERDICT
    )
    page = candidates_markdown("mail", [refused], None)
    assert "Promoted: nothing new." in page
    assert "| worse | refused | 0 of 1 tasks pass<br>mail/urgent: a loss \\| of up" in page
    assert (
        "| mail/urgent | block | 300 | 0.600 | 0.500 | -0.100 (-0.160 to -0.040) | 0.031 |" in page
    )


def test_scores_are_one_row_a_task() -> None:
    task = TaskResult(
        task="urgent",
        metric="acc",
        higher_is_better=True,
        items=300,
        value=0.91,
        stderr=None,
        task_sha256="a" * 64,
        data_sha256="b" * 64,
    )
    record = EvaluationRecord(
        name="tuned",
        weight_digest="a" * 64,
        suite="mail",
        suite_sha256="b" * 64,
        code_digest="c" * 64,
        engine="transformers",
        dtype="bfloat16",
        template_sha256="",
        tasks=(task, task),
        items_sha256="d" * 64,
    )
    rows = score_rows([record])
    assert len(rows) == 2
    assert rows[0]["value"] == "0.910"
    assert rows[0]["standard error"] == ""


def test_key_fits_prefects_rule() -> None:
    assert artifact_key("batch-My job_2026.11") == "batch-my-job-2026-11"


def test_report_is_stored_on_the_server(connected: PrefectServer) -> None:
    @flow
    def reporting() -> None:
        publish_markdown("a-page", "# Page", "A page")
        publish_table("a-table", [{"fact": "rows", "value": "3"}], "A table")

    reporting()
    with get_client(sync_client=True) as client:
        keys = ArtifactFilterKey(any_=["a-page", "a-table"])
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=keys))
    assert {artifact.type for artifact in found} == {"markdown", "table"}


def test_server_that_is_away_costs_a_report_and_not_the_run(connected: PrefectServer) -> None:
    @flow
    def reporting() -> str:
        nowhere = f"http://127.0.0.1:{free_port()}/api"
        with temporary_settings({PREFECT_API_URL: nowhere}):
            publish_markdown("lost", "# Lost", "Never stored")
        return "done"

    assert reporting() == "done"
