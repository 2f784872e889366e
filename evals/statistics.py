"""Tests and intervals for two models that answered the same items.

Signs: a difference is candidate minus baseline, in units where more is better, so that harm is
negative. `alpha` is one-sided throughout, and every interval is two-sided at 1 - 2·alpha: its ends
are the bounds that the one-sided tests at `alpha` decide by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri

Floats = NDArray[np.float64]

# The score statistic diverges at -1 and 1; roots are sought this far inside.
EDGE = 1e-12


@dataclass(frozen=True)
class PairedCounts:
    """The 2x2 table of two models on `n` items, reduced to what a paired test needs.

    `gained`: items that only the candidate answers correctly; `lost`: only the baseline. Counts are
    whole, unless they are divided by a design effect (`ClusteredScore`).
    """

    n: float
    gained: float
    lost: float

    def __post_init__(self) -> None:
        if self.n < 1 or self.gained < 0 or self.lost < 0 or self.gained + self.lost > self.n:
            raise ValueError(f"{self} is not a paired table")

    @property
    def discordant(self) -> float:
        """Items on which the two models disagree."""
        return self.gained + self.lost

    @property
    def difference(self) -> float:
        """Share of correct answers, candidate minus baseline."""
        return (self.gained - self.lost) / self.n

    @classmethod
    def of(cls, candidate: Floats, baseline: Floats) -> PairedCounts:
        """Count two arrays of 0 and 1, shape (n,), aligned item by item."""
        gained = int(np.count_nonzero(candidate > baseline))
        lost = int(np.count_nonzero(candidate < baseline))
        return cls(n=len(candidate), gained=gained, lost=lost)


@dataclass(frozen=True)
class OneSided:
    """A one-sided test: `shown` when the p-value is at most alpha."""

    p_value: float
    shown: bool


def critical_value(alpha: float) -> float:
    """z = Φ⁻¹(1 - alpha), for a one-sided alpha in (0, 0.5)."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is one-sided and lies in (0, 0.5), not {alpha}")
    return -float(ndtri(alpha))


def tango_statistic(gained: Floats, lost: Floats, n: float, difference: float) -> Floats:
    """Score statistic Z for H0: the paired difference of proportions equals `difference`.

    With b = gained, c = lost and d = difference::

        Z = (b - c - n·d) / sqrt(n·(2·q + d·(1 - d)))
        q = (sqrt(B² - 4·A·C) - B) / (2·A)
        A = 2·n,  B = -b - c + (2·n - b + c)·d,  C = -c·d·(1 - d)

    q is the maximum-likelihood estimate of P(lost) under H0. At d = 0, Z is McNemar's
    (b - c)/sqrt(b + c). Where variance and numerator both vanish (no discordant item, d = 0) the
    data say nothing about d and Z is 0. Accepts arrays (any one shape) and fractional counts.

    Source: Tango (1998), Statistics in Medicine 17:891-908, equations 24 to 26, with d = -Δ.
    """
    variance = null_variance(gained, lost, n, difference)
    numerator = np.asarray(gained - lost - n * difference, dtype=np.float64)
    positive = variance > 0
    scaled = numerator / np.sqrt(np.where(positive, variance, 1.0))
    beyond = np.where(numerator == 0, 0.0, np.copysign(np.inf, numerator))
    return np.asarray(np.where(positive, scaled, beyond), dtype=np.float64)


def null_variance(gained: Floats, lost: Floats, n: float, difference: float) -> Floats:
    """Variance of gained - lost under H0, n·(2·q + d·(1 - d)), as in `tango_statistic`."""
    b, c = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    linear = -(b + c) + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    root = np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0))
    # The second form of the same root where the first one would subtract equal numbers.
    stable = np.where(linear > 0, linear + root, 1.0)
    q = np.where(linear > 0, -2 * constant / stable, (root - linear) / (4 * n))
    q = np.maximum(q, max(0.0, -difference))
    return np.asarray(n * (2 * q + difference * (1 - difference)), dtype=np.float64)


def tango_test(counts: PairedCounts, null_difference: float, alpha: float) -> OneSided:
    """One-sided score test of H0: difference <= `null_difference`.

    `null_difference` = -margin tests non-inferiority; 0 or a smallest worthwhile effect tests
    superiority. p = 1 - Φ(Z), Z from `tango_statistic`. The test is asymptotic: enumerated over
    all tables, its size at alpha = 0.05 is at most 0.055 for most n >= 50, and up to 0.07 at some
    small n where nearly no items are discordant.
    """
    z = score_of(counts, null_difference)
    p_value = float(ndtr(-z))
    return OneSided(p_value=p_value, shown=p_value <= alpha)


def tango_interval(counts: PairedCounts, alpha: float) -> tuple[float, float]:
    """Score interval of the difference, two-sided at 1 - 2·alpha, within [-1, 1].

    The ends solve Z(d) = z and Z(d) = -z with z = Φ⁻¹(1 - alpha) (Tango 1998, section 4), so
    `tango_test` shows "difference > d" exactly when the lower end is above d.
    """
    mirrored = PairedCounts(n=counts.n, gained=counts.lost, lost=counts.gained)
    return _lower_bound(counts, alpha), -_lower_bound(mirrored, alpha)


def mcnemar_exact(counts: PairedCounts) -> float:
    """Two-sided exact McNemar p-value: min(1, 2·P(X <= min(b, c))), X ~ Binomial(b + c, 1/2).

    Reported, never decided by: a large p-value is no evidence that two models are equal. It is 1
    when no item is discordant. Source: McNemar (1947), Psychometrika 12:153-157, exact form.
    """
    if counts.discordant == 0:
        return 1.0
    smaller = min(counts.gained, counts.lost)
    return min(1.0, 2.0 * float(bdtr(smaller, counts.discordant, 0.5)))


def fewer_gained_exact(counts: PairedCounts) -> float:
    """One-sided exact McNemar p-value of harm: P(X <= gained), X ~ Binomial(gained + lost, 1/2).

    Unlike the score test it keeps its level on few items, as slices have. 1 without discordance.
    """
    return float(bdtr(counts.gained, counts.discordant, 0.5)) if counts.discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given.

    With p(1) <= … <= p(m): adjusted p(i) = min(1, max over j <= i of (m - j + 1)·p(j)). Rejecting
    where the adjusted value is at most alpha holds the chance of any false rejection at alpha.
    Source: Holm (1979), Scandinavian Journal of Statistics 6:65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, running)
    return adjusted


def score_of(counts: PairedCounts, difference: float) -> float:
    """`tango_statistic` of one table."""
    gained, lost = np.float64(counts.gained), np.float64(counts.lost)
    return float(tango_statistic(np.asarray(gained), np.asarray(lost), counts.n, difference))


def _lower_bound(counts: PairedCounts, alpha: float) -> float:
    from scipy.optimize import brentq

    if counts.lost == counts.n:
        return -1.0
    z = critical_value(alpha)
    root = brentq(
        lambda d: score_of(counts, d) - z, EDGE - 1.0, counts.difference, xtol=1e-14, rtol=1e-14
    )
    return float(root)
