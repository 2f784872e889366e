"""One task's decision: what its paired items show against what the policy asks.

pass: everything asked was shown. block: harm was shown, the score is below the minimum, or
superiority was asked and not shown. cannot_tell: the items could not show what was asked, which
is no evidence against the candidate and none for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evals.comparison import Comparison, compare
from evals.pairing import PairedTask
from evals.policy import Superiority, TaskRule
from evals.power import POWER
from evals.sample_metrics import LOG
from pipelines.errors import UnusableEvidence
from pipelines.records import Outcome, TaskVerdict

Judged = tuple[Outcome, str]  # and why, in words; empty where nothing was asked

DECIMALS = 6  # of numbers in a verdict, so that it is the same bytes on every machine


def judge(pair: PairedTask, rule: TaskRule, alpha: float) -> TaskVerdict:
    """Decide one task; every part of the rule must hold.

    Raises UnusableEvidence when the record holds another metric than the rule names.
    """
    # Where a logarithm is judged, the policy names the metric itself.
    if rule.metric is not None and rule.metric != pair.metric.removeprefix(LOG):
        fact = f"the policy asks for {rule.metric}, and the record holds {pair.metric}"
        raise UnusableEvidence(pair.task, fact, "Name the suite's metric, or evaluate with yours.")
    seen = compare(pair, alpha)
    superior = _judge_superiority(seen, rule.superiority)
    parts = [
        _judge_items(seen, rule.min_items),
        judge_margin(seen, rule.margin),
        superior,
        _judge_minimum(pair, seen, rule.minimum),
    ]
    return TaskVerdict(
        task=pair.task,
        outcome=worst([outcome for outcome, _ in parts]),
        items=seen.items,
        candidate=rounded(seen.candidate),
        baseline=rounded(seen.baseline),
        difference=rounded(seen.gain),
        interval=(rounded(seen.interval[0]), rounded(seen.interval[1])),
        margin=rule.margin,
        smallest_margin=rounded(seen.smallest_margin),
        detectable_margin=rounded(seen.detectable_margin),
        detectable_effect=rounded(seen.detectable_effect(0.0)),
        clusters=seen.clusters,
        effective_items=rounded(seen.effective_items),
        method=seen.method,
        mcnemar_p=None if seen.mcnemar_p is None else rounded(seen.mcnemar_p),
        superiority=_status(rule.superiority, superior[0]),
        reason="; ".join(
            [what_is_seen(pair, seen, alpha), *(words for _, words in parts if words)]
        ),
    )


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """block before cannot_tell before pass: all must pass, and what is shown outweighs doubt."""
    ranking: tuple[Outcome, ...] = ("block", "cannot_tell", "pass")
    return next(outcome for outcome in ranking if outcome in outcomes)


def what_is_seen(pair: PairedTask, seen: Comparison, alpha: float) -> str:
    """The comparison in words: both scores, the difference with its interval, and on how much."""
    direction = "" if pair.higher_is_better else " (lower is better, a gain is positive)"
    lower, upper = seen.interval
    return (
        f"{pair.metric} of the candidate {seen.candidate:.3f}, baseline {seen.baseline:.3f}, "
        f"difference {seen.gain:+.3f}{direction}, {100 * (1 - 2 * alpha):.4g} % CI "
        f"[{lower:+.3f}, {upper:+.3f}] on {seen.items} items ({seen.method})"
    )


def _judge_items(seen: Comparison, min_items: int | None) -> Judged:
    if min_items is None or seen.items >= min_items:
        return "pass", ""
    return "cannot_tell", f"cannot tell: {seen.items} items, and the policy asks for {min_items}"


def judge_margin(seen: Comparison, margin: float | None) -> Judged:
    """Non-inferiority: pass where it is shown, block where harm is shown and it is not."""
    if margin is None:
        return "pass", ""
    on = _items(seen)
    could = (
        f"smallest margin these {on} could have shown: {seen.smallest_margin:.3f}; "
        f"an equal candidate passes in {100 * POWER:.0f} % of cases at {seen.detectable_margin:.3f}"
    )
    if seen.test(-margin).shown:
        return "pass", f"margin {margin:.3f}: non-inferior; {could}"
    if seen.interval[1] < 0:
        return "block", f"margin {margin:.3f}: worse than the baseline; {could}"
    if seen.smallest_margin > margin:
        why = f"{on} see {seen.smallest_margin:.3f} at best, and {margin:.3f} was asked"
    else:
        why = f"a loss of {-seen.interval[0]:.3f} is not excluded, and none is shown"
    return "cannot_tell", f"margin {margin:.3f}: cannot tell: {why}; {could}"


def _items(seen: Comparison) -> str:
    if seen.clusters is None:
        return f"{seen.items} items"
    worth = f"worth {seen.effective_items:.0f} independent items"
    return f"{seen.items} items in {seen.clusters} clusters ({worth})"


def _judge_superiority(seen: Comparison, asked: Superiority | None) -> Judged:
    if asked is None:
        return "pass", ""
    result = seen.test(asked.min_effect)
    by = f"better by more than {asked.min_effect:.3f}" if asked.min_effect else "better"
    if result.shown:
        return "pass", f"{by}: shown (p = {result.p_value:.2g})"
    could = seen.detectable_effect(asked.min_effect)
    return "block", (
        f"{by}: not shown (p = {result.p_value:.2g}); a true gain of {could:.3f} "
        f"would be shown in {100 * POWER:.0f} % of cases"
    )


def _status(
    asked: Superiority | None, outcome: Outcome
) -> Literal["not asked", "shown", "not shown"]:
    if asked is None:
        return "not asked"
    return "shown" if outcome == "pass" else "not shown"


def _judge_minimum(pair: PairedTask, seen: Comparison, minimum: float | None) -> Judged:
    if minimum is None:
        return "pass", ""
    if pair.higher_is_better:
        met, word = seen.candidate >= minimum, "minimum"
    else:
        met, word = seen.candidate <= minimum, "maximum"
    return ("pass" if met else "block"), f"{word} {minimum:.3f}: {'met' if met else 'not met'}"


def rounded(value: float) -> float:
    """As a verdict holds it."""
    return round(value, DECIMALS) + 0.0  # -0.0 becomes 0.0
