"""Tests of the verdict's page."""

from __future__ import annotations

import pytest

from evals.gate_report import verdict_markdown
from pipelines.records import Outcome, TaskVerdict, Verdict


def verdict(outcome: Outcome) -> Verdict:
    passing = TaskVerdict(
        task="general/hellaswag",
        outcome="pass",
        items=100,
        candidate=0.43,
        baseline=0.45,
        difference=-0.02,
        interval=(-0.097, 0.057),
        margin=0.15,
        smallest_margin=0.076,
        mcnemar_p=0.82,
        reason="non-inferior",
    )
    other = passing.model_copy(
        update={"task": "own/triage", "outcome": outcome, "margin": None, "reason": "a|b"}
    )
    return Verdict(
        name="tuned",
        weight_digest="c" * 64,
        baseline="base",
        baseline_digest="b" * 64,
        outcome=outcome,
        reasons=("1 of 2 tasks pass", "own/triage: a|b"),
        tasks=(passing, other),
        policy="default",
        policy_sha256="d" * 64,
        code_digest="e" * 64,
        evidence={},
    )


@pytest.mark.parametrize(
    ("outcome", "words"), [("pass", "pass"), ("block", "block"), ("cannot_tell", "cannot tell")]
)
def test_the_page_says_outcome_reasons_and_numbers(outcome: Outcome, words: str) -> None:
    page = verdict_markdown(verdict(outcome))
    assert page.startswith(f"## tuned against base: {words}\n")
    assert "- 1 of 2 tasks pass" in page
    row = "| general/hellaswag | pass | 100 | 0.430 | 0.450 | -0.020 [-0.097, +0.057] | 0.150 |"
    assert row in page
    assert "c" * 64 in page
    assert "d" * 64 in page


def test_a_tiny_p_value_is_not_printed_as_zero() -> None:
    tiny = verdict("pass").tasks[0].model_copy(update={"mcnemar_p": 0.0})
    page = verdict_markdown(verdict("pass").model_copy(update={"tasks": (tiny,)}))
    assert "| < 0.001 |" in page


def test_every_row_has_as_many_cells_as_the_header() -> None:
    rows = [line for line in verdict_markdown(verdict("block")).splitlines() if line[:1] == "|"]
    assert len(rows) == 4
    assert len({line.count("|") for line in rows}) == 1
