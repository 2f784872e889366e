"""The report shows each task, its slices and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from evals.evaluation_report import evaluation_report
from evals.items import ItemResult
from pipelines.records import EvaluationRecord, TaskResult


def record(stderr: float | None) -> EvaluationRecord:
    return EvaluationRecord(
        name="tiny",
        weight_digest="a" * 64,
        suite="smoke",
        suite_sha256="b" * 64,
        code_digest="c" * 64,
        engine="transformers 5 on cpu",
        dtype="bfloat16",
        template_sha256="",
        tasks=(
            TaskResult(
                task="one",
                metric="acc",
                higher_is_better=True,
                items=4,
                value=0.5,
                stderr=stderr,
                task_sha256="d" * 64,
                data_sha256="e" * 64,
            ),
        ),
        items_sha256="f" * 64,
    )


def items(slices: Sequence[str]) -> list[ItemResult]:
    return [
        ItemResult("one", i, "d", "p", "t", "acc", float(i % 2), "A", "B", name)
        for i, name in enumerate(slices)
    ]


def test_a_task_is_shown_with_its_slices() -> None:
    report = evaluation_report(record(0.25), items("xxxy"))
    assert "| one | acc (higher is better) | all | 4 | 0.5000 | 0.2500 |" in report
    assert "| one | acc (higher is better) | x | 3 | 0.3333 | 0.3333 |" in report
    assert "| one | acc (higher is better) | y | 1 | 1.0000 | n/a |" in report


def test_a_missing_standard_error_is_not_a_number() -> None:
    assert "| all | 4 | 0.5000 | n/a |" in evaluation_report(record(None), [])


def test_names_cannot_break_the_table() -> None:
    assert "| a\\|b |" in evaluation_report(record(0.25), items([*"xxx", "a|b"]))
