"""What the paired items of one task show about two models, before any rule is applied.

Outcomes of 0 and 1 on independent items: Tango's score test. All others, and items that depend on
each other: the paired bootstrap, over clusters where the items carry them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evals.pairing import PairedTask
from evals.power import POWER, detectable_effect, detectable_margin, discordance
from evals.power import resolution as resolution_of
from evals.power import smallest_margin as smallest_binary_margin
from evals.resampling import (
    ClusteredScore,
    by_cluster,
    independent_units,
    paired_bootstrap,
    standard_error,
)
from evals.sample_metrics import LOG
from evals.statistics import (
    Floats,
    OneSided,
    PairedCounts,
    critical_value,
    fewer_gained_exact,
    mcnemar_exact,
    tango_interval,
    tango_test,
)


@dataclass(frozen=True)
class Comparison:
    """What the items show. `gain` is the improvement: candidate minus baseline, more is better.

    `effective_items` is how many independent items carry as much: `items` itself without clusters.
    `test` asks "gain > null"; `harm_p` is the p-value of "gain < 0".
    """

    items: int
    clusters: int | None
    effective_items: float
    candidate: float
    baseline: float
    gain: float
    interval: tuple[float, float]
    smallest_margin: float
    detectable_margin: float
    detectable_effect: Callable[[float], float]
    test: Callable[[float], OneSided]
    harm_p: float
    mcnemar_p: float | None
    method: str


def compare(pair: PairedTask, alpha: float) -> Comparison:
    """Tango's score test where outcomes are 0 or 1 and independent, else the bootstrap."""
    if pair.binary and not pair.clustered:
        return _compare_binary(pair, alpha)
    return _compare_resampled(pair, alpha)


def _compare_binary(pair: PairedTask, alpha: float) -> Comparison:
    counts = _counts(pair)
    share = discordance(counts.n, counts.discordant)
    return Comparison(
        items=len(pair.candidate),
        clusters=None,
        effective_items=float(counts.n),
        candidate=float(pair.candidate.mean()),
        baseline=float(pair.baseline.mean()),
        gain=counts.difference,
        interval=tango_interval(counts, alpha),
        smallest_margin=smallest_binary_margin(counts.n, counts.discordant, alpha),
        detectable_margin=detectable_margin(counts.n, share, alpha),
        detectable_effect=lambda least: detectable_effect(counts.n, share, alpha, least),
        test=lambda null: tango_test(counts, null, alpha),
        harm_p=fewer_gained_exact(counts),
        mcnemar_p=mcnemar_exact(counts),
        method=f"{counts.gained:g} items gained, {counts.lost:g} lost",
    )


def _compare_resampled(pair: PairedTask, alpha: float) -> Comparison:
    """Expanded percentile bootstrap, never finer than what as many items of 0 and 1 could show.

    Resampling repeats the items that are there: a rare collapse that none of them met does not
    exist for it, and a handful of equal scores would prove equality. So nothing is shown within
    `resolution` (z²/(m + z²), Tango without discordant items) times the range of the scores, with
    m the number of independent units: items, or clusters where these fall together. Outcomes of 0
    and 1 in clusters must pass the score test on effective counts as well.
    """
    sign = 1.0 if pair.higher_is_better else -1.0
    gains = sign * (pair.candidate - pair.baseline)
    clusters = pair.clusters if pair.clustered else None
    boot = paired_bootstrap(gains, np.zeros(len(gains)), clusters)
    gain = boot.difference
    sums, sizes = by_cluster(gains, clusters)
    units = independent_units(sizes)
    finest = resolution_of(units, alpha) * _range(pair)
    error = standard_error(sums, sizes)
    effect = _design_effect(gains, error, units)
    score = ClusteredScore.of(_counts(pair), effect, len(sums)) if pair.binary else None
    ends = [boot.interval(alpha), (gain - finest, gain + finest)]
    if score is not None:
        ends.append(score.interval(alpha))
    lower, upper = min(low for low, _ in ends), max(high for _, high in ends)
    detectable = max((critical_value(alpha) + critical_value(1 - POWER)) * error, finest)
    if score is not None:
        few, disagree = score.counts.n, discordance(score.counts.n, score.counts.discordant)
        detectable = max(detectable, detectable_margin(few, disagree, alpha))

    def test(null: float) -> OneSided:
        if gain - null < finest:
            return OneSided(p_value=1.0, shown=False)
        p_value = max(boot.test(null, alpha).p_value, score.p_value(null) if score else 0.0)
        return OneSided(p_value=p_value, shown=p_value <= alpha)

    harm_p = boot.mirrored().test(0.0, alpha).p_value if -gain >= finest else 1.0
    return Comparison(
        items=len(gains),
        clusters=None if clusters is None else len(sums),
        effective_items=len(gains) / effect,
        candidate=float(pair.candidate.mean()),
        baseline=float(pair.baseline.mean()),
        gain=gain,
        interval=(max(lower, -BOUND), min(upper, BOUND)),
        smallest_margin=min(gain - lower, BOUND),
        detectable_margin=detectable,
        detectable_effect=lambda least: least + detectable,
        test=test,
        harm_p=max(harm_p, score.mirrored().p_value(0.0) if score else 0.0),
        mcnemar_p=None,
        method="paired bootstrap"
        if clusters is None
        else f"paired bootstrap over {len(sums)} clusters",
    )


def _counts(pair: PairedTask) -> PairedCounts:
    """Items that only one of the models answered correctly, in units where more is better."""
    up, down = pair.candidate, pair.baseline
    return PairedCounts.of(up, down) if pair.higher_is_better else PairedCounts.of(down, up)


# A single unit has no interval at all; JSON knows no infinity, and no metric has such a value.
BOUND = 1e9


def _design_effect(gains: Floats, error: float, units: float) -> float:
    """How many times the variance of independent items it is; n/units where nothing differs."""
    n = len(gains)
    alone = float(gains.std(ddof=1)) / np.sqrt(n) if n > 1 else 0.0
    if alone == 0.0 or error == 0.0:
        return n / units
    return max(1.0, (error / alone) ** 2)


def _range(pair: PairedTask) -> float:
    """How much one item's score can change: 1 for shares, else the spread of the scores and 0.

    Likelihoods have no bound, and two models agree on one by being the same: of them, the spread
    of the changes that were seen.
    """
    if pair.metric.startswith(LOG) or pair.metric == "bits_per_byte":
        gains = pair.candidate - pair.baseline
        return max(float(gains.max()), 0.0) - min(float(gains.min()), 0.0)
    pooled = np.concatenate([pair.candidate, pair.baseline])
    low, high = min(float(pooled.min()), 0.0), max(float(pooled.max()), 0.0)
    return 1.0 if low == 0.0 and high <= 1.0 else high - low
