"""What changed between two evaluations of one model on one suite, item by item.

Unlike the gate, this compares across versions of code, engine and weights on purpose: it asks what
the change did. Items that are the same question in both (document and right answer) are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from evals.comparison import compare
from evals.evidence import SuiteEvidence
from evals.items import ItemResult
from evals.pairing import PairedTask
from evals.statistics import holm
from pipelines.canonical import Frozen

ALPHA = 0.05


class Flip(Frozen):
    """One item whose score fell: what was asked, and both answers."""

    item: str = Field(description="the data's own id, or its place in the file")
    prompt: str
    before: str
    after: str
    gold: str


class TaskChange(Frozen):
    """One task before and after; `outcome` is about harm at ALPHA, Holm-adjusted over the tasks."""

    task: str
    outcome: Literal["regressed", "no loss shown", "not comparable"]
    items: int = Field(description="that are the same question in both")
    before: float
    after: float
    harm_p: float
    gained: int
    flips: tuple[Flip, ...] = Field(description="items whose score fell, in the data's order")


def changes(before: SuiteEvidence, after: SuiteEvidence) -> list[TaskChange]:
    """One change for each task of `after`, sorted by name."""
    directions = {task.task: task.higher_is_better for task in after.record.tasks}
    made = [
        _change(name, before.items.get(name, ()), after.items[name], directions[name])
        for name in sorted(after.items)
    ]
    adjusted = holm([change.harm_p for change in made])
    return [
        change.model_copy(update={"harm_p": p, "outcome": _outcome(change, p)})
        for change, p in zip(made, adjusted, strict=True)
    ]


def _outcome(
    change: TaskChange, harm_p: float
) -> Literal["regressed", "no loss shown", "not comparable"]:
    if not change.items:
        return "not comparable"
    return "regressed" if harm_p <= ALPHA else "no loss shown"


def _change(
    task: str, before: Sequence[ItemResult], after: Sequence[ItemResult], higher_is_better: bool
) -> TaskChange:
    old = {(item.doc_hash, item.target_hash): item for item in before}
    both = [
        (old[key], item)
        for item in sorted(after, key=lambda item: item.doc_id)
        if (key := (item.doc_hash, item.target_hash)) in old
    ]
    sign = 1.0 if higher_is_better else -1.0
    gains = [sign * (new.score - was.score) for was, new in both]
    scores = [np.array([side.score for side in sides]) for sides in zip(*both, strict=True)]
    harm_p = 1.0
    if both:
        pair = PairedTask(
            task=task,
            metric=both[0][1].metric,
            higher_is_better=higher_is_better,
            candidate=scores[1],
            baseline=scores[0],
        )
        harm_p = compare(pair, ALPHA).harm_p
    return TaskChange(
        task=task,
        outcome="no loss shown",
        items=len(both),
        before=float(scores[0].mean()) if both else 0.0,
        after=float(scores[1].mean()) if both else 0.0,
        harm_p=harm_p,
        gained=sum(gain > 0 for gain in gains),
        flips=tuple(
            _flip(was, new) for (was, new), gain in zip(both, gains, strict=True) if gain < 0
        ),
    )


def _flip(before: ItemResult, after: ItemResult) -> Flip:
    return Flip(
        item=after.item_id or str(after.doc_id),
        prompt=after.prompt,
        before=before.answer,
        after=after.answer,
        gold=after.gold,
    )
