"""One task's decision: what its paired items show against what the policy asks.

pass: everything asked was shown. block: harm was shown, the score is below the minimum, or
superiority was asked and not shown. cannot_tell: the items could not show what was asked, which
is no evidence against the candidate and none for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evals.pairing import PairedTask
from evals.policy import Superiority, TaskRule
from evals.power import POWER, detectable_effect, detectable_margin, discordance
from evals.power import resolution as resolution_of
from evals.power import smallest_margin as smallest_binary_margin
from evals.statistics import (
    OneSided,
    PairedCounts,
    critical_value,
    mcnemar_exact,
    paired_bootstrap,
    tango_interval,
    tango_test,
)
from pipelines.errors import UnusableEvidence
from pipelines.records import Outcome, TaskVerdict

Judged = tuple[Outcome, str]  # and why, in words; empty where nothing was asked

DECIMALS = 6  # of numbers in a verdict, so that it is the same bytes on every machine


@dataclass(frozen=True)
class Comparison:
    """What the items show. `gain` is the improvement: candidate minus baseline, more is better."""

    items: int
    candidate: float
    baseline: float
    gain: float
    interval: tuple[float, float]
    smallest_margin: float
    detectable_margin: float
    detectable_effect: Callable[[float], float]
    test: Callable[[float], OneSided]
    mcnemar_p: float | None
    method: str


def compare(pair: PairedTask, alpha: float) -> Comparison:
    """Score test and interval of Tango for outcomes of 0 and 1, paired bootstrap for all others."""
    return _compare_binary(pair, alpha) if pair.binary else _compare_continuous(pair, alpha)


def _compare_binary(pair: PairedTask, alpha: float) -> Comparison:
    up, down = pair.candidate, pair.baseline
    counts = PairedCounts.of(up, down) if pair.higher_is_better else PairedCounts.of(down, up)
    share = discordance(counts.n, counts.discordant)
    return Comparison(
        items=counts.n,
        candidate=float(pair.candidate.mean()),
        baseline=float(pair.baseline.mean()),
        gain=counts.difference,
        interval=tango_interval(counts, alpha),
        smallest_margin=smallest_binary_margin(counts.n, counts.discordant, alpha),
        detectable_margin=detectable_margin(counts.n, share, alpha),
        detectable_effect=lambda least: detectable_effect(counts.n, share, alpha, least),
        test=lambda null: tango_test(counts, null, alpha),
        mcnemar_p=mcnemar_exact(counts),
        method=f"{counts.gained} items gained, {counts.lost} lost",
    )


def _compare_continuous(pair: PairedTask, alpha: float) -> Comparison:
    """Percentile bootstrap, never finer than what as many items of 0 and 1 could show.

    Resampling repeats the items that are there: a rare collapse that none of them met does not
    exist for it, and a handful of equal scores would prove equality. So nothing is shown within
    `resolution` (z²/(n + z²), Tango without discordant items) times the range of the scores.
    """
    sign = 1.0 if pair.higher_is_better else -1.0
    boot = paired_bootstrap(sign * pair.candidate, sign * pair.baseline)
    n, gain = len(pair.candidate), boot.difference
    finest = resolution_of(n, alpha) * _range(pair)
    lower, upper = boot.interval(alpha)
    gains = sign * (pair.candidate - pair.baseline)
    standard_error = float(gains.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    powered = (critical_value(alpha) + critical_value(1 - POWER)) * standard_error

    def test(null: float) -> OneSided:
        result = boot.test(null, alpha)
        return result if gain - null >= finest else OneSided(p_value=1.0, shown=False)

    return Comparison(
        items=n,
        candidate=float(pair.candidate.mean()),
        baseline=float(pair.baseline.mean()),
        gain=gain,
        interval=(min(lower, gain - finest), max(upper, gain + finest)),
        smallest_margin=max(gain - lower, finest),
        detectable_margin=max(powered, finest),
        detectable_effect=lambda least: least + max(powered, finest),
        test=test,
        mcnemar_p=None,
        method="paired bootstrap",
    )


def _range(pair: PairedTask) -> float:
    """How much one item's score can change: 1 for shares, else the spread of the scores and 0."""
    pooled = np.concatenate([pair.candidate, pair.baseline])
    low, high = min(float(pooled.min()), 0.0), max(float(pooled.max()), 0.0)
    return 1.0 if low == 0.0 and high <= 1.0 else high - low


def judge(pair: PairedTask, rule: TaskRule, alpha: float) -> TaskVerdict:
    """Decide one task; every part of the rule must hold.

    Raises UnusableEvidence when the record holds another metric than the rule names.
    """
    if rule.metric is not None and rule.metric != pair.metric:
        fact = f"the policy asks for {rule.metric}, and the record holds {pair.metric}"
        raise UnusableEvidence(pair.task, fact, "Name the suite's metric, or evaluate with yours.")
    seen = compare(pair, alpha)
    superior = _judge_superiority(seen, rule.superiority)
    parts = [
        _judge_items(seen, rule.min_items),
        _judge_margin(seen, rule.margin),
        superior,
        _judge_minimum(pair, seen, rule.minimum),
    ]
    return TaskVerdict(
        task=pair.task,
        outcome=worst([outcome for outcome, _ in parts]),
        items=seen.items,
        candidate=_round(seen.candidate),
        baseline=_round(seen.baseline),
        difference=_round(seen.gain),
        interval=(_round(seen.interval[0]), _round(seen.interval[1])),
        margin=rule.margin,
        smallest_margin=_round(seen.smallest_margin),
        mcnemar_p=None if seen.mcnemar_p is None else _round(seen.mcnemar_p),
        superiority=_status(rule.superiority, superior[0]),
        reason="; ".join([_seen(pair, seen, alpha), *(words for _, words in parts if words)]),
    )


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """block before cannot_tell before pass: all must pass, and what is shown outweighs doubt."""
    ranking: tuple[Outcome, ...] = ("block", "cannot_tell", "pass")
    return next(outcome for outcome in ranking if outcome in outcomes)


def _seen(pair: PairedTask, seen: Comparison, alpha: float) -> str:
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


def _judge_margin(seen: Comparison, margin: float | None) -> Judged:
    if margin is None:
        return "pass", ""
    could = (
        f"smallest margin these {seen.items} items could have shown: {seen.smallest_margin:.3f}; "
        f"an equal candidate passes in {100 * POWER:.0f} % of cases at {seen.detectable_margin:.3f}"
    )
    if seen.test(-margin).shown:
        return "pass", f"margin {margin:.3f}: non-inferior; {could}"
    if seen.interval[1] < 0:
        return "block", f"margin {margin:.3f}: worse than the baseline; {could}"
    return "cannot_tell", f"margin {margin:.3f}: cannot tell; {could}"


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


def _round(value: float) -> float:
    return round(value, DECIMALS) + 0.0  # -0.0 becomes 0.0
