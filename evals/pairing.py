"""Two models' results on the same items, joined item by item.

What is not comparable raises UnusableEvidence: other data, other documents, other prompts, another
engine. A difference between two models must have no other cause than the models.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from evals.evidence import GateEvidence
from evals.items import ItemResult
from evals.statistics import Floats
from pipelines.errors import UnusableEvidence
from pipelines.records import EvaluationRecord, TaskResult

EVALUATE_BOTH = "Evaluate candidate and baseline with the same suite, data and code, then gate."

Identity = tuple[str, str, str]  # doc_hash, prompt_hash, target_hash
_Texts = tuple[str, ...]


@dataclass(frozen=True)
class PairedTask:
    """Two models' scores on the same items of one task, aligned; arrays of shape (n,).

    `clusters` names what dependent items have in common, one label an item, None where no item has
    one. `slices` maps a key to its value on each item, '' where an item has none. `repeated` items
    stood in the data more than once and count once.
    """

    task: str
    metric: str
    higher_is_better: bool
    candidate: Floats
    baseline: Floats
    clusters: _Texts | None = None
    slices: Mapping[str, _Texts] = field(default_factory=dict)
    repeated: int = 0

    @property
    def binary(self) -> bool:
        """Whether every score of both models is 0 or 1."""
        pooled = np.concatenate([self.candidate, self.baseline])
        return bool(np.isin(pooled, (0.0, 1.0)).all())

    @property
    def clustered(self) -> bool:
        """Whether any two items depend on each other."""
        return self.clusters is not None and len(set(self.clusters)) < len(self.clusters)

    def where(self, key: str, value: str) -> PairedTask:
        """The items whose `key` is `value`, without their slices."""
        chosen = np.array([label == value for label in self.slices[key]])
        clusters = None
        if self.clusters is not None:
            clusters = tuple(c for c, kept in zip(self.clusters, chosen, strict=True) if kept)
        return PairedTask(
            task=self.task,
            metric=self.metric,
            higher_is_better=self.higher_is_better,
            candidate=self.candidate[chosen],
            baseline=self.baseline[chosen],
            clusters=clusters,
        )


def pair(
    candidate: GateEvidence, baseline: GateEvidence, *, template_change: bool
) -> list[PairedTask]:
    """Join two models' items by what they are (document, prompt, target), sorted by 'suite/task'.

    Where an item stands in its file plays no part. With `template_change` prompts may differ.
    Raises UnusableEvidence when suites, tasks, data, documents, prompts or targets are not the same
    for both.
    """
    ours = {suite.record.suite: suite for suite in candidate.suites}
    theirs = {suite.record.suite: suite for suite in baseline.suites}
    _same(set(ours), set(theirs), "the evaluations", "suites")
    pairs = []
    for name in sorted(ours):
        _check_comparable(ours[name].record, theirs[name].record, template_change)
        for result, other in _results(ours[name].record, theirs[name].record):
            _check_same_task(result, other, f"{name}/{result.task}")
            items = ours[name].items[result.task], theirs[name].items[result.task]
            pairs.append(_pair_task(f"{name}/{result.task}", result, *items, template_change))
    return pairs


def _pair_task(
    task: str,
    result: TaskResult,
    ours: Sequence[ItemResult],
    theirs: Sequence[ItemResult],
    template_change: bool,
) -> PairedTask:
    _check_same_documents(ours, theirs, task)
    mine, other = _by_identity(ours, template_change), _by_identity(theirs, template_change)
    _check_same_identities(mine, other, task)
    identities = sorted(mine)
    first = [mine[identity][0] for identity in identities]
    keys = sorted({key for item in first for key in item.slices})
    return PairedTask(
        task=task,
        metric=result.metric,
        higher_is_better=result.higher_is_better,
        candidate=np.array([_score(mine[identity]) for identity in identities]),
        baseline=np.array([_score(other[identity]) for identity in identities]),
        clusters=_clusters(first),
        slices={key: tuple(item.slices.get(key, "") for item in first) for key in keys},
        repeated=len(ours) - len(identities),
    )


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
        # Results from outside a registry may not say: '' is then all there is to compare.
        if mine != theirs and mine != "" and theirs != "":
            fact = f"the {what} differs: candidate {mine}, baseline {theirs}"
            raise UnusableEvidence(task, fact, EVALUATE_BOTH)


def _check_same_documents(
    ours: Sequence[ItemResult], theirs: Sequence[ItemResult], task: str
) -> None:
    """The same documents, each as often; named by the place at which the model met them."""
    counts = [Counter(item.doc_hash for item in items) for items in (ours, theirs)]
    named = [
        {
            f"document {item.doc_id} with hash {item.doc_hash}"
            for item in items
            if counts[0][item.doc_hash] != counts[1][item.doc_hash]
        }
        for items in (ours, theirs)
    ]
    # Equal names with unequal counts: one model met the document more often than the other.
    if named[0] == named[1] and named[0]:
        fact = f"{min(named[0])} was scored more often for one model than for the other"
        raise UnusableEvidence(task, fact, EVALUATE_BOTH)
    _same(named[0] - named[1], named[1] - named[0], task, "documents")


def _by_identity(
    items: Iterable[ItemResult], template_change: bool
) -> dict[Identity, list[ItemResult]]:
    found: dict[Identity, list[ItemResult]] = {}
    for item in items:
        prompt = "" if template_change else item.prompt_hash
        found.setdefault((item.doc_hash, prompt, item.target_hash), []).append(item)
    return found


def _check_same_identities(
    ours: Mapping[Identity, list[ItemResult]],
    theirs: Mapping[Identity, list[ItemResult]],
    task: str,
) -> None:
    prompts = [{identity[:2] for identity in items} for items in (ours, theirs)]
    if differing := prompts[0] - prompts[1]:
        fact = f"{len(differing)} documents were given with other prompts than to the baseline"
        remedy = "Evaluate both with the same few-shot examples and chat template."
        raise UnusableEvidence(task, fact, remedy)
    if differing_targets := set(ours) ^ set(theirs):
        count = len({identity[0] for identity in differing_targets})
        fact = f"{count} documents have another right answer than for the baseline"
        raise UnusableEvidence(task, fact, EVALUATE_BOTH)
    for identity, items in ours.items():
        mine, other = items[0], theirs[identity][0]
        if (dict(mine.slices), mine.cluster) != (dict(other.slices), other.cluster):
            fact = f"document {mine.doc_id} is in other slices or another cluster for the baseline"
            raise UnusableEvidence(task, fact, EVALUATE_BOTH)


def _score(items: Sequence[ItemResult]) -> float:
    """An item's score; the mean where the same item was asked more than once."""
    return math.fsum(item.score for item in items) / len(items)


def _clusters(items: Sequence[ItemResult]) -> _Texts | None:
    """A label for each item; one without a cluster is alone in its own."""
    if not any(item.cluster for item in items):
        return None
    return tuple(f"in {i.cluster}" if i.cluster else f"alone {n}" for n, i in enumerate(items))


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
