"""Two models' results on the same items, joined item by item.

What is not comparable raises UnusableEvidence: other data, other documents, other prompts, another
engine. A difference between two models must have no other cause than the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from evals.evidence import GateEvidence
from evals.items import ItemResult
from evals.statistics import Floats
from pipelines.errors import UnusableEvidence
from pipelines.records import EvaluationRecord, TaskResult

EVALUATE_BOTH = "Evaluate candidate and baseline with the same suite, data and code, then gate."

Key = tuple[int, str, str]  # doc_id, doc_hash, prompt_hash


@dataclass(frozen=True)
class PairedTask:
    """Two models' scores on the same items of one task, aligned; arrays of shape (n,)."""

    task: str
    metric: str
    higher_is_better: bool
    candidate: Floats
    baseline: Floats

    @property
    def binary(self) -> bool:
        """Whether every score of both models is 0 or 1."""
        pooled = np.concatenate([self.candidate, self.baseline])
        return bool(np.isin(pooled, (0.0, 1.0)).all())


def pair(
    candidate: GateEvidence, baseline: GateEvidence, *, template_change: bool
) -> list[PairedTask]:
    """Join two models' items by (task, doc_hash, doc_id, prompt_hash), sorted by 'suite/task'.

    With `template_change` prompts may differ and prompt_hash is left out of the key. Raises
    UnusableEvidence when suites, tasks, data, documents or prompts are not the same for both.
    """
    ours = {suite.record.suite: suite for suite in candidate.suites}
    theirs = {suite.record.suite: suite for suite in baseline.suites}
    _same(set(ours), set(theirs), "the evaluations", "suites")
    pairs = []
    for name in sorted(ours):
        _check_comparable(ours[name].record, theirs[name].record, template_change)
        for result, other in _results(ours[name].record, theirs[name].record):
            task = f"{name}/{result.task}"
            _check_same_task(result, other, task)
            ours_by_key = _by_key(ours[name].items[result.task], template_change)
            theirs_by_key = _by_key(theirs[name].items[result.task], template_change)
            _check_same_items(ours_by_key, theirs_by_key, task)
            keys = sorted(ours_by_key)
            pairs.append(
                PairedTask(
                    task=task,
                    metric=result.metric,
                    higher_is_better=result.higher_is_better,
                    candidate=np.array([ours_by_key[key] for key in keys]),
                    baseline=np.array([theirs_by_key[key] for key in keys]),
                )
            )
    return pairs


def _results(
    ours: EvaluationRecord, theirs: EvaluationRecord
) -> list[tuple[TaskResult, TaskResult]]:
    by_task = {result.task: result for result in theirs.tasks}
    _same({result.task for result in ours.tasks}, set(by_task), f"suite {ours.suite}", "tasks")
    in_order = sorted(ours.tasks, key=lambda result: result.task)
    return [(result, by_task[result.task]) for result in in_order]


def _check_comparable(
    ours: EvaluationRecord, theirs: EvaluationRecord, template_change: bool
) -> None:
    subject = f"suite {ours.suite}"
    for what, mine, other in (
        ("another version of the suite", ours.suite_sha256, theirs.suite_sha256),
        ("another version of the evaluation's code", ours.code_digest, theirs.code_digest),
        ("another engine", ours.engine, theirs.engine),
    ):
        if mine != other:
            fact = f"the candidate was evaluated with {what} ({mine}) than the baseline ({other})"
            raise UnusableEvidence(subject, fact, EVALUATE_BOTH)
    if ours.template_sha256 != theirs.template_sha256 and not template_change:
        fact = (
            f"the candidate was evaluated with another chat template "
            f"({ours.template_sha256 or 'none'}) than the baseline "
            f"({theirs.template_sha256 or 'none'})"
        )
        remedy = "Evaluate both alike, or set template_change in the policy if that is the change."
        raise UnusableEvidence(subject, fact, remedy)


def _check_same_task(result: TaskResult, other: TaskResult, task: str) -> None:
    for what, mine, theirs in (
        ("metric", result.metric, other.metric),
        ("direction", result.higher_is_better, other.higher_is_better),
        ("task definition", result.task_sha256, other.task_sha256),
        ("data", result.data_sha256, other.data_sha256),
    ):
        if mine != theirs:
            fact = f"the {what} differs: candidate {mine}, baseline {theirs}"
            raise UnusableEvidence(task, fact, EVALUATE_BOTH)


def _by_key(items: Iterable[ItemResult], template_change: bool) -> dict[Key, float]:
    return {
        (item.doc_id, item.doc_hash, "" if template_change else item.prompt_hash): item.score
        for item in items
    }


def _check_same_items(ours: Mapping[Key, float], theirs: Mapping[Key, float], task: str) -> None:
    _same(_documents(ours), _documents(theirs), task, "documents")
    if differing := sorted(set(ours) - set(theirs)):
        fact = f"{len(differing)} documents were given with other prompts than to the baseline"
        remedy = "Evaluate both with the same few-shot examples and chat template."
        raise UnusableEvidence(task, fact, remedy)


def _documents(keys: Iterable[Key]) -> set[str]:
    return {f"document {doc_id} with hash {doc_hash}" for doc_id, doc_hash, _ in keys}


def _same(ours: AbstractSet[str], theirs: AbstractSet[str], subject: str, what: str) -> None:
    if ours == theirs:
        return
    only = [
        f"only the {who} has {len(extra)} ({sorted(extra)[0]}{', …' if len(extra) > 1 else ''})"
        for who, extra in (("candidate", ours - theirs), ("baseline", theirs - ours))
        if extra
    ]
    fact = f"candidate and baseline have different {what}: {', '.join(only)}"
    raise UnusableEvidence(subject, fact, EVALUATE_BOTH)
