"""A control that comes out differently is named, item by item, with what changed of the stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evals.drift import DriftReport, drift, drift_lines
from evals.items import ItemResult
from pipelines.errors import DigestMismatch, UnusableEvidence
from tests.evals.evaluations import items, write_evaluation

RECORDED = items([1.0, 0.0, 1.0, 1.0])


def compared(tmp_path: Path, now: list[ItemResult], **changes: Any) -> DriftReport:
    recorded = write_evaluation(tmp_path / "recorded", RECORDED)
    return drift(recorded, write_evaluation(tmp_path / "now", now, **changes))


def test_the_same_results_are_no_drift(tmp_path: Path) -> None:
    report = compared(tmp_path, RECORDED, versions={"transformers": "5.20.0", "torch": "2.13.0"})
    assert not report.drifted
    assert report.findings == ()
    assert report.changed == {"transformers": ("5.19.0", "5.20.0")}
    assert "did not drift" in "\n".join(drift_lines(report))


def test_a_flipped_item_is_drift_and_shows_both_answers(tmp_path: Path) -> None:
    now = [*RECORDED[:3], RECORDED[3]._replace(score=0.0, answer="C|D")]
    report = compared(tmp_path, now, engine="transformers 5.20.0 on cpu")
    (moved,) = report.moved
    assert (moved.item_id, moved.recorded_score, moved.rescored_score) == ("item-3", 1.0, 0.0)
    assert (moved.recorded_answer, moved.rescored_answer) == ("A", "C|D")
    (finding,) = report.findings
    assert finding.rule == "drift.stack"
    assert "1 of 4 items of control on smoke moved, 1 of them in their score" in finding.fact
    assert "engine transformers 5.19.0 on cpu → transformers 5.20.0 on cpu" in finding.fact
    assert "| one | item-3 | 0 | 1 | C\\|D | A |" in drift_lines(report)


@pytest.mark.parametrize(("change", "moved"), [(0.0005, 0), (0.002, 4), (-0.3, 4)])
def test_log_likelihoods_may_move_by_the_tolerance(
    tmp_path: Path, change: float, moved: int
) -> None:
    now = items([1.0, 0.0, 1.0, 1.0], outputs=(-0.5, -1.5 + change))
    report = compared(tmp_path, now)
    assert len(report.moved) == moved
    if moved:
        assert report.moved[0].largest_change_nats == pytest.approx(abs(change))
        assert "the records name the same versions" in report.findings[0].fact


def test_another_prompt_for_the_same_item_is_drift(tmp_path: Path) -> None:
    now = [RECORDED[0]._replace(prompt_hash="f" * 64), *RECORDED[1:]]
    assert [item.same_prompt for item in compared(tmp_path, now).moved] == [False]


def test_another_text_with_the_same_score_is_counted_only(tmp_path: Path) -> None:
    report = compared(tmp_path, items([1.0, 0.0, 1.0, 1.0], answer="other"))
    assert (report.drifted, report.other_answers) == (False, 4)


@pytest.mark.parametrize(
    "change",
    [{"weight_digest": "f" * 64}, {"suite_sha256": "f" * 64}, {"template_sha256": "f" * 64}],
)
def test_other_weights_suite_or_template_are_no_control(
    tmp_path: Path, change: dict[str, str]
) -> None:
    with pytest.raises(UnusableEvidence, match="A control is the same weights"):
        compared(tmp_path, RECORDED, **change)


def test_missing_or_extra_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableEvidence, match="1 items are in one of the two"):
        compared(tmp_path, RECORDED[:3])


def test_a_changed_file_of_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch):
        compared(tmp_path, RECORDED, items_sha256="f" * 64)


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableEvidence):
        compared(tmp_path, items([1.0, 0.0, 1.0, float("nan")]), tasks=())
