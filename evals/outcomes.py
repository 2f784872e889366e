"""What lm-eval found on a task, turned into a result, or refused.

lm-eval scores weights that hold NaN like a model that guesses, and averages whatever is left of a
task. Each of these is UnusableEvidence here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evals.block_store import ScoredItem, ScoredTask
from evals.items import ItemResult
from evals.suites import Row, SuiteTask
from pipelines.errors import UnusableEvidence
from pipelines.records import TaskResult

MEAN_TOLERANCE = 1e-9
CHECK_WEIGHTS = "The weights hold NaN or infinity, or overflow in this dtype: check them."
OTHER_METRIC = "Choose a metric that is the mean of one number per item (acc, exact_match, …)."


def item_results(
    about: str, name: str, task: SuiteTask, found: ScoredTask, rows: Sequence[Row]
) -> list[ItemResult]:
    """The items of one task; `about` names it in messages, `rows` are the data that were asked.

    Raises UnusableEvidence when items are missing, a log likelihood or a score is not a finite
    number, or a right answer is none of the choices.
    """
    wanted = len(rows)
    count = len({item.doc_id for item in found.items} & set(range(wanted)))
    if count != wanted or len(found.items) != wanted:
        raise UnusableEvidence(
            about,
            f"{count} of {wanted} items were scored",
            "Look for items that lm-eval drops, and evaluate again.",
        )
    if not any(item.outputs for item in found.items) and not math.isfinite(found.probe or math.nan):
        raise UnusableEvidence(about, "the model's output is not finite", CHECK_WEIGHTS)
    return [_item_result(about, name, task, item, rows[item.doc_id]) for item in found.items]


def task_result(
    about: str, name: str, task: SuiteTask, found: ScoredTask, digests: tuple[str, str]
) -> TaskResult:
    """The aggregate of one task; `digests` are those of its definition and of its data.

    Raises UnusableEvidence when the metric is missing or not finite, when it is not the mean of the
    items' scores (the gate compares items), or when lm-eval has the other direction.
    """
    value = _number(about, found.value, task.metric)
    mean = math.fsum(item.score or 0.0 for item in found.items) / len(found.items)
    if abs(mean - value) > MEAN_TOLERANCE:
        raise UnusableEvidence(
            about, f"{task.metric} is {value}, but its items average {mean}", OTHER_METRIC
        )
    if found.higher_is_better not in (None, task.higher_is_better):
        raise UnusableEvidence(
            about,
            f"lm-eval says higher_is_better: {found.higher_is_better} of {task.metric}",
            "Correct suite.yaml.",
        )
    return TaskResult(
        task=name,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        items=len(found.items),
        value=value,
        stderr=_stderr(about, found.stderr, task.metric),
        task_sha256=digests[0],
        data_sha256=digests[1],
        weight=task.weight,
    )


def _item_result(about: str, name: str, task: SuiteTask, item: ScoredItem, row: Row) -> ItemResult:
    where = f"{about}, item {item.doc_id}"
    if not all(map(math.isfinite, item.outputs)):
        raise UnusableEvidence(where, "its log likelihood is not finite", CHECK_WEIGHTS)
    if item.score is None or not math.isfinite(item.score):
        fact = f"{task.metric} gives it the score {item.score}"
        raise UnusableEvidence(where, fact, OTHER_METRIC)
    if item.gold is None:
        fact = "its right answer is none of its choices"
        raise UnusableEvidence(where, fact, "Correct the suite's data.")
    return ItemResult(
        task=name,
        doc_id=item.doc_id,
        doc_hash=item.doc_hash,
        prompt_hash=item.prompt_hash,
        target_hash=item.target_hash,
        metric=task.metric,
        score=item.score,
        answer=item.answer,
        gold=item.gold,
        item_id=row["id"],
        prompt=item.prompt,
        slices={field: row[field] for field in task.slices},
        cluster="" if task.cluster is None else row[task.cluster],
        outputs=item.outputs,
        note=item.note,
    )


def _number(about: str, value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        fact = "is missing" if value is None else f"is {value!r}, no finite number"
        raise UnusableEvidence(about, f"{what} {fact}", OTHER_METRIC)
    return float(value)


def _stderr(about: str, value: Any, metric: str) -> float | None:
    """lm-eval writes "N/A" where it has no standard error; any other text is an error."""
    if value is None or value == "N/A":
        return None
    return _number(about, value, f"the standard error of {metric}")
