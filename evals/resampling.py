"""The paired bootstrap, over items or over clusters of items, and what clusters are worth.

Signs and alpha are those of `evals.statistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from evals.statistics import Floats, OneSided, PairedCounts, score_of, tango_interval

BOOTSTRAP_DRAWS = 10_000
BOOTSTRAP_SEED = 20_260_101  # any fixed number: a verdict must come out the same twice
DRAWN_AT_ONCE = 2_000_000  # indices in memory while bootstrapping: 16 MB


@dataclass(frozen=True)
class ClusteredScore:
    """Tango's score test on items in `units` clusters: counts divided by the design effect.

    The bootstrap alone passes too many candidates at the margin where losses are rare and fall on
    whole clusters, as it takes its spread from the losses that it met; the score test takes it from
    the margin itself. Student's t, as the design effect is estimated from `units` clusters.
    Source: Rao and Scott (1992), Biometrics 48:577-585, for the effective counts.
    """

    counts: PairedCounts
    units: int

    @classmethod
    def of(cls, counts: PairedCounts, design_effect: float, units: int) -> ClusteredScore:
        """From the counts of all items and their design effect, which is at least 1."""
        n, b, c = (part / design_effect for part in (counts.n, counts.gained, counts.lost))
        return cls(counts=PairedCounts(n=n, gained=b, lost=c), units=units)

    def p_value(self, null_difference: float) -> float:
        """One-sided, of H0: difference <= `null_difference`; 1 for a single cluster."""
        if self.units < 2:
            return 1.0
        return float(stdtr(self.units - 1, -score_of(self.counts, null_difference)))

    def mirrored(self) -> ClusteredScore:
        """The same items with the models exchanged."""
        n, b, c = self.counts.n, self.counts.gained, self.counts.lost
        return ClusteredScore(counts=PairedCounts(n=n, gained=c, lost=b), units=self.units)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Two-sided at 1 - 2·alpha; [-1, 1] for a single cluster."""
        if self.units < 2:
            return -1.0, 1.0
        outer = float(ndtr(-stdtrit(self.units - 1, 1 - alpha)))
        return tango_interval(self.counts, outer)


@dataclass(frozen=True)
class Bootstrap:
    """Resampled means of a paired difference; `means` is sorted, shape (draws,).

    `units` is how many independent units were resampled: items, or clusters of items. A percentile
    interval is too narrow where they are few, by a factor of about sqrt((k - 1)/k) and for want of
    Student's t; so percentiles are taken further out, at Φ(-sqrt(k/(k - 1))·t(1 - alpha, k - 1)).
    Source: Hesterberg (2015), The American Statistician 69:371-386, "expanded percentile".
    """

    difference: float
    means: Floats
    units: int

    def interval(self, alpha: float) -> tuple[float, float]:
        """Expanded percentile interval, two-sided at 1 - 2·alpha; [-inf, inf] for a single unit."""
        if self.units < 2:
            return -np.inf, np.inf
        outer = float(ndtr(-self._stretch * stdtrit(self.units - 1, 1 - alpha)))
        lower, upper = np.quantile(self.means, [outer, 1 - outer])
        return float(lower), float(upper)

    def test(self, null_difference: float, alpha: float) -> OneSided:
        """One-sided test of H0: difference <= `null_difference`, expanded like the interval.

        The share (1 + #{means <= null}) / (1 + draws) is never 0 (Davison and Hinkley 1997, section
        4.2); the p-value is what Student's t gives at the same place.
        """
        if self.units < 2:
            return OneSided(p_value=1.0, shown=False)
        below = int(np.searchsorted(self.means, null_difference, side="right"))
        share = (1 + below) / (2 + len(self.means))
        p_value = float(stdtr(self.units - 1, ndtri(share) / self._stretch))
        return OneSided(p_value=p_value, shown=p_value <= alpha)

    def mirrored(self) -> Bootstrap:
        """The same draws of baseline - candidate: its test of 0 asks for harm."""
        return Bootstrap(difference=-self.difference, means=-self.means[::-1], units=self.units)

    @property
    def _stretch(self) -> float:
        return float(np.sqrt(self.units / (self.units - 1)))


def paired_bootstrap(
    candidate: Floats,
    baseline: Floats,
    clusters: Sequence[str] | None = None,
    *,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = BOOTSTRAP_SEED,
) -> Bootstrap:
    """Resample items, or whole clusters of items, and average candidate - baseline, `draws` times.

    Both arrays have shape (n,), n >= 1, aligned item by item, so both models' answers to an item
    stay together. `clusters` names the cluster of each item: items of one cluster are drawn
    together, and a draw's mean is over the items it drew (a ratio of sums).
    """
    gains = np.asarray(candidate, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    sums, sizes = by_cluster(gains, clusters)
    generator = np.random.default_rng(seed)
    rows_at_once = max(1, DRAWN_AT_ONCE // len(sums))
    parts = []
    for start in range(0, draws, rows_at_once):
        rows = min(rows_at_once, draws - start)
        picked = generator.integers(0, len(sums), size=(rows, len(sums)))
        parts.append(sums[picked].sum(axis=1) / sizes[picked].sum(axis=1))
    means = np.sort(np.concatenate(parts))
    return Bootstrap(difference=float(gains.mean()), means=means, units=len(sums))


def by_cluster(gains: Floats, clusters: Sequence[str] | None) -> tuple[Floats, Floats]:
    """Sum and number of items of each cluster, both of shape (k,); without clusters k = n."""
    if clusters is None:
        return gains, np.ones(len(gains))
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=gains).astype(np.float64)
    return sums, np.bincount(index).astype(np.float64)


def independent_units(sizes: Floats) -> float:
    """How many clusters of equal size those of `sizes` are worth: (Σm)²/Σm².

    It is also the number of independent items in the worst case, where all items of a cluster fall
    together. Source: Kish (1965), Survey Sampling, section 11.7.
    """
    return float(sizes.sum() ** 2 / (sizes * sizes).sum())


def standard_error(sums: Floats, sizes: Floats) -> float:
    """Standard error of Σsums/Σsizes over k >= 2 clusters, by linearisation; 0 for one cluster.

    sqrt(k/(k - 1)·Σ(s - m·mean)²)/Σm. Source: Cochran (1977), Sampling Techniques, section 9A.
    """
    k = len(sums)
    if k < 2:
        return 0.0
    residuals = sums - sizes * (sums.sum() / sizes.sum())
    return float(np.sqrt(k / (k - 1) * (residuals * residuals).sum()) / sizes.sum())
