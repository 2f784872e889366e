"""Slices: the items of a task that share a value, such as a language, judged for harm.

A task's mean can hold while one language collapses. Every slice that the suite reports by is tested
for "worse than the baseline", Holm-corrected over all slices of the verdict, so that equal models
are blocked by any of them in at most alpha of cases. A slice that is too small to show anything
blocks only where the policy gives its key a margin; a loss that is shown to be smaller than that
margin passes, as it does for a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.comparison import Comparison, compare
from evals.judgement import Judged, judge_margin, rounded, what_is_seen, worst
from evals.pairing import PairedTask
from evals.policy import GatePolicy, SliceRule
from evals.statistics import holm
from pipelines.errors import UnusableEvidence
from pipelines.records import SliceVerdict


def judge_slices(policy: GatePolicy, pairs: Sequence[PairedTask]) -> list[SliceVerdict]:
    """One verdict for each task, key and value, in that order.

    Raises UnusableEvidence when no item carries a key that the policy names, or only some items of
    a task do: what is in no slice would escape the rule.
    """
    _check_named(policy.slices, pairs)
    found = [
        (task, key, value, task.where(key, value))
        for task in pairs
        for key, labels in sorted(task.slices.items())
        for value in sorted({*labels} - {""})
    ]
    seen = [compare(part, policy.alpha) for *_, part in found]
    harms = holm([each.harm_p for each in seen])
    return [
        _verdict(policy, (task.task, key, value), part, each, harm)
        for (task, key, value, part), each, harm in zip(found, seen, harms, strict=True)
    ]


def _verdict(
    policy: GatePolicy,
    names: tuple[str, str, str],
    part: PairedTask,
    seen: Comparison,
    harm_p: float,
) -> SliceVerdict:
    task, key, value = names
    rule = policy.slices.get(key, SliceRule())
    within = _judge(seen, rule)
    harm = _judge_harm(harm_p, policy.alpha)
    if rule.margin is not None and within[0] == "pass" and harm[0] == "block":
        harm = "pass", f"{harm[1]}, by less than the margin"
    parts = [harm, _judge_size(seen, rule), within]
    return SliceVerdict(
        task=task,
        key=key,
        value=value,
        outcome=worst([outcome for outcome, _ in parts]),
        items=seen.items,
        candidate=rounded(seen.candidate),
        baseline=rounded(seen.baseline),
        difference=rounded(seen.gain),
        interval=(rounded(seen.interval[0]), rounded(seen.interval[1])),
        margin=rule.margin,
        smallest_margin=rounded(seen.smallest_margin),
        harm_p=rounded(harm_p),
        reason="; ".join(
            [what_is_seen(part, seen, policy.alpha), *(words for _, words in parts if words)]
        ),
    )


def _judge_harm(harm_p: float, alpha: float) -> Judged:
    if harm_p > alpha:
        return "pass", f"no harm shown (Holm-adjusted p = {harm_p:.2g})"
    return "block", f"worse than the baseline (Holm-adjusted p = {harm_p:.2g})"


def _judge_size(seen: Comparison, rule: SliceRule) -> Judged:
    if rule.min_items is None or seen.items >= rule.min_items:
        return "pass", ""
    words = f"cannot tell: {seen.items} items, and the policy asks for {rule.min_items}"
    return "cannot_tell", words


def _judge(seen: Comparison, rule: SliceRule) -> Judged:
    """The margin of the key; whether there is harm is for the corrected test to say."""
    outcome, words = judge_margin(seen, rule.margin)
    if outcome != "block":
        return outcome, words
    return "cannot_tell", words.replace("worse than", "before correction worse than", 1)


def _check_named(rules: Mapping[str, SliceRule], pairs: Sequence[PairedTask]) -> None:
    carried = {key for task in pairs for key in task.slices}
    for key in sorted(rules):
        if key not in carried:
            there = ", ".join(sorted(carried)) or "none"
            fact = f"the policy asks for slices by it, and no item carries it (there are: {there})"
            remedy = "Add it to the suite's slices and evaluate again, or correct the policy."
            raise UnusableEvidence(f"slice {key}", fact, remedy)
        for task in pairs:
            if without := task.slices.get(key, ()).count(""):
                fact = f"{without} of {len(task.candidate)} items have no {key}"
                remedy = "Give every item of the task a value; what is in no slice is not judged."
                raise UnusableEvidence(task.task, fact, remedy)
