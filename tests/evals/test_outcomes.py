"""What lm-eval returns carries a decision, or is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from evals.block_store import ScoredItem, ScoredTask
from evals.items import ItemResult
from evals.outcomes import item_results, task_result
from evals.suites import SuiteTask
from pipelines.errors import UnusableEvidence
from pipelines.records import TaskResult

TASK = SuiteTask(
    file="t.yaml",
    data="t.jsonl",
    metric="acc",
    higher_is_better=True,
    min_items=2,
    slices=("topic", "level"),
    cluster="text",
)
WANTED = 4
ROWS = [
    {"id": f"i{n}", "topic": "time", "level": f"{n % 2}", "text": f"t{n // 2}"}
    for n in range(WANTED)
]


def scored_item(doc_id: int, **changes: Any) -> ScoredItem:
    fields = {
        "doc_id": doc_id,
        "doc_hash": f"{doc_id}",
        "prompt_hash": "p",
        "target_hash": "t",
        "score": float(doc_id % 2),
        "answer": "A",
        "gold": "B",
        "prompt": "Which?",
        "outputs": (-1.0, -2.0),
    }
    return ScoredItem(**(fields | changes))


ITEMS = tuple(scored_item(i) for i in range(WANTED))
GOOD = ScoredTask(value=0.5, stderr=0.25, higher_is_better=True, items=ITEMS)


def items_of(found: ScoredTask) -> list[ItemResult]:
    return item_results("m on s", "t", TASK, found, ROWS)


def result_of(**changes: Any) -> TaskResult:
    found = GOOD.model_copy(update=changes)
    return task_result("m on s", "t", TASK, found, ("a" * 64, "b" * 64))


def with_item(**changes: Any) -> ScoredTask:
    return GOOD.model_copy(update={"items": (*ITEMS[:-1], scored_item(3, **changes))})


def test_a_complete_task_is_a_result() -> None:
    assert [item.score for item in items_of(GOOD)] == [0.0, 1.0, 0.0, 1.0]
    result = result_of()
    assert (result.items, result.value, result.stderr) == (WANTED, 0.5, 0.25)


@pytest.mark.parametrize("items", [(), ITEMS[:3], (*ITEMS, scored_item(4)), (*ITEMS[:3], ITEMS[0])])
def test_too_few_repeated_or_extra_items_are_refused(items: tuple[ScoredItem, ...]) -> None:
    with pytest.raises(UnusableEvidence, match="of 4 items were scored"):
        items_of(GOOD.model_copy(update={"items": items}))


@pytest.mark.parametrize("output", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_is_refused(output: float) -> None:
    with pytest.raises(UnusableEvidence, match="item 3: its log likelihood is not finite"):
        items_of(with_item(outputs=(-1.0, output)))


@pytest.mark.parametrize("probe", [None, math.nan])
def test_texts_need_a_finite_probe(probe: float | None) -> None:
    texts = tuple(scored_item(i, outputs=()) for i in range(WANTED))
    found = GOOD.model_copy(update={"items": texts, "probe": probe})
    with pytest.raises(UnusableEvidence, match="output is not finite"):
        items_of(found)
    assert items_of(found.model_copy(update={"probe": -3.0}))


@pytest.mark.parametrize("score", [None, math.nan])
def test_an_item_without_a_score_is_refused(score: float | None) -> None:
    with pytest.raises(UnusableEvidence, match="item 3: acc gives it the score"):
        items_of(with_item(score=score))


def test_a_right_answer_outside_the_choices_is_refused() -> None:
    with pytest.raises(UnusableEvidence, match="none of its choices"):
        items_of(with_item(gold=None))


@pytest.mark.parametrize(
    ("value", "fact"),
    [(None, "is missing"), ("N/A", "no finite number"), (math.nan, "nan"), (True, "True")],
)
def test_a_metric_that_is_no_number_is_refused(value: Any, fact: str) -> None:
    with pytest.raises(UnusableEvidence, match=fact):
        result_of(value=value)


def test_a_metric_that_is_not_the_mean_of_its_items_is_refused() -> None:
    with pytest.raises(UnusableEvidence, match=r"acc is 0\.6, but its items average 0\.5"):
        result_of(value=0.6)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_all_right_and_all_wrong_are_results(score: float) -> None:
    items = tuple(scored_item(n, score=score) for n in range(WANTED))
    result = result_of(items=items, value=score, stderr=0.0)
    assert (result.value, result.stderr) == (score, 0.0)


def test_slices_clusters_and_ids_come_from_the_data() -> None:
    items = items_of(GOOD)
    assert [item.item_id for item in items] == ["i0", "i1", "i2", "i3"]
    assert [item.cluster for item in items] == ["t0", "t0", "t1", "t1"]
    assert items[1].slices == {"topic": "time", "level": "1"}
    assert items[1].prompt == "Which?"
    assert items[1].outputs == (-1.0, -2.0)


def test_another_direction_is_refused() -> None:
    with pytest.raises(UnusableEvidence, match="higher_is_better: False"):
        result_of(higher_is_better=False)


@pytest.mark.parametrize("stderr", [None, "N/A"])
def test_no_standard_error_is_none(stderr: Any) -> None:
    assert result_of(stderr=stderr).stderr is None


@pytest.mark.parametrize("stderr", ["n/a", "", math.nan, [0.1]])
def test_any_other_standard_error_is_refused(stderr: Any) -> None:
    with pytest.raises(UnusableEvidence, match="standard error of acc"):
        result_of(stderr=stderr)
