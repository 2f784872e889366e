"""The report shows each task, its slices and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from evals.contamination import ContaminationRecord, SeenSet, TaskOverlap
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
        ItemResult(
            "one", i, "d", "p", "t", "acc", float(i % 2), "A", "B", f"{i}", "?", {"of": name}
        )
        for i, name in enumerate(slices)
    ]


UNTUNED = ContaminationRecord(suite_sha256="b" * 64, words=13, training_sets=(), tasks=())


def test_overlapping_items_are_named() -> None:
    overlap = UNTUNED.model_copy(
        update={
            "training_sets": (SeenSet(name="notes", sha256="f" * 64, rows=9),),
            "tasks": (TaskOverlap(task="one", items=4, short_items=1, overlapping={"i2": 1.0}),),
        }
    )
    report = evaluation_report(record(0.25), items("xxxy"), overlap)
    assert "13 words in a row, in notes (9 rows):" in report
    assert "- one: 1 of 4 items (25.0 %); 1 short ones looked for whole: i2" in report
    assert "not tuned here" in evaluation_report(record(0.25), items("xxxy"), UNTUNED)


def test_the_weighted_mean_is_shown_where_all_tasks_point_one_way() -> None:
    one = record(0.25).tasks[0]
    two = one.model_copy(update={"task": "two", "value": 1.0, "weight": 3.0})
    both = record(0.25).model_copy(update={"tasks": (one, two)})
    assert "Weighted mean of the tasks: 0.8750." in evaluation_report(both, [], UNTUNED)
    other = two.model_copy(update={"higher_is_better": False})
    mixed = both.model_copy(update={"tasks": (one, other)})
    assert "Weighted mean" not in evaluation_report(mixed, [], UNTUNED)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_task_at_an_end_of_its_range_is_named(value: float) -> None:
    result = record(0.0).tasks[0].model_copy(update={"value": value})
    ended = record(0.0).model_copy(update={"tasks": (result,)})
    note = f"one: every item scores {value:.0f}. It cannot tell models apart"
    assert note in evaluation_report(ended, [], UNTUNED)
    assert "It cannot tell" not in evaluation_report(record(0.25), [], UNTUNED)


def test_a_task_is_shown_with_its_slices() -> None:
    report = evaluation_report(record(0.25), items("xxxy"), UNTUNED)
    assert "| one | acc (higher is better) | all | 4 | 0.5000 | 0.2500 |" in report
    assert "| one | acc (higher is better) | of: x | 3 | 0.3333 | 0.3333 |" in report
    assert "| one | acc (higher is better) | of: y | 1 | 1.0000 | n/a |" in report


def test_a_missing_standard_error_is_not_a_number() -> None:
    assert "| all | 4 | 0.5000 | n/a |" in evaluation_report(record(None), [], UNTUNED)


def test_names_cannot_break_the_table() -> None:
    assert "| of: a\\|b |" in evaluation_report(record(0.25), items([*"xxx", "a|b"]), UNTUNED)
