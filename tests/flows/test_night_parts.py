"""The parts of a night that need no server: budget, flips, and the page."""

from __future__ import annotations

import pytest

from evals.evidence import SuiteEvidence
from evals.flips import changes
from evals.items import ItemResult
from flows.night_history import NightChange, NightRecord, NightRow, NightScore
from flows.night_plan import Budget, Purse
from flows.night_report import html_page, page, sparkline
from pipelines.records import EvaluationRecord, TaskResult

NONE = "0" * 64


def suite(right: int, *, items: int = 100, engine: str = "vllm 1", first: int = 0) -> SuiteEvidence:
    task = TaskResult(
        task="triage", metric="acc", higher_is_better=True, items=items, value=right / items,
        stderr=None, task_sha256=NONE, data_sha256=NONE,
    )  # fmt: skip
    record = EvaluationRecord(
        name="base", weight_digest=NONE, suite="own", suite_sha256=NONE, code_digest=engine,
        engine=engine, dtype="float32", template_sha256="", tasks=(task,), items_sha256=NONE,
    )  # fmt: skip
    made = [
        ItemResult(
            task="triage",
            doc_id=n,
            doc_hash=f"document {n}",
            prompt_hash=engine,
            target_hash="yes",
            metric="acc",
            score=float(n < right),
            answer="<b>yes</b>" if n < right else "no",
            gold="yes",
            item_id="",
            prompt=f"question {n}",
        )
        for n in range(first, first + items)
    ]
    return SuiteEvidence(record=record, items={"triage": made})


def test_a_loss_is_found_across_versions_of_the_stack() -> None:
    (change,) = changes(suite(80), suite(60, engine="vllm 2"))
    assert change.outcome == "regressed"
    assert (change.items, len(change.flips), change.gained) == (100, 20, 0)
    assert change.flips[0].item == "60"


def test_a_small_loss_is_no_alarm_and_other_questions_are_not_compared() -> None:
    (change,) = changes(suite(80), suite(77))
    assert (change.outcome, len(change.flips)) == ("no loss shown", 3)
    (change,) = changes(suite(80), suite(60, first=1000))
    assert (change.outcome, change.items) == ("not comparable", 0)


@pytest.mark.parametrize(
    ("budget", "expected_s", "words"),
    [
        (Budget(), 1e9, ""),
        (Budget(hours=1), 2400, ""),
        (Budget(hours=1), 2500, "time budget: it took 2500 s the last time, 2400 s are left"),
        (Budget(usd=4, usd_per_hour=6), 1200, ""),
        (Budget(usd=4, usd_per_hour=6), 1300, "money budget: about 2.17 USD, 2.00 USD are left"),
    ],
)
def test_what_took_longer_than_what_is_left_is_not_started(
    budget: Budget, expected_s: float, words: str
) -> None:
    now = iter([0.0, 1200.0])
    assert Purse(budget, lambda: next(now)).refusal(expected_s) == words


def test_the_page_survives_what_a_model_wrote_and_shows_the_trend() -> None:
    (change,) = changes(suite(80), suite(60))
    row = NightRow(evaluation="base-own", outcome="evaluated", detail="triage 0.6 | lost")
    nights = [
        NightRecord(
            began_at=f"2026-11-2{day}T01:30:00+00:00",
            rows=(row,),
            scores=(
                NightScore(
                    model="base", suite="own", task="triage", metric="acc",
                    higher_is_better=True, value=value,
                ),
            ),
            changes=(NightChange(evaluation="base-own", change=change),),
        )
        for day, value in ((1, 0.8), (2, 0.6))
    ]  # fmt: skip
    written = page(nights)
    assert "## Worse: base-own, triage" in written
    assert "| 60 | question 60 | &lt;b&gt;yes&lt;/b&gt; | no | yes |" in written
    assert "| base | own/triage | acc | █▁ | 0.600 | -0.200 |" in written
    assert "<b>yes</b>" not in html_page(nights)
    assert "<svg" in html_page(nights)


def test_a_sparkline_has_a_character_a_value() -> None:
    assert sparkline([1.0, 1.0]) == "▄▄"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
