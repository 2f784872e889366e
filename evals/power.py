"""What a number of items can show: the smallest margin, the smallest effect, and power.

A gate that says "not shown" owes the reader how much it could have shown. Signs and alpha are
those of `evals.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import gammaln, ndtr, xlogy

from evals.statistics import Floats, critical_value, null_variance, tango_statistic

POWER = 0.8  # the customary chance of seeing what is there


def smallest_margin(n: float, discordant: float, alpha: float) -> float:
    """The smallest margin that `n` items could have shown with this much disagreement.

    It is the margin at which the score test just passes a candidate that gained as many items as
    it lost (b = c = discordant/2). With no discordant item it is z²/(n + z²): 50 items cannot show
    less than 5.1 points at alpha = 0.05, however well the models agree. Follows from `Z` of
    Tango (1998) at a difference of 0.
    """
    z, half = critical_value(alpha), np.asarray(discordant / 2)
    return _smallest(lambda margin: float(tango_statistic(half, half, n, -margin)) - z)


def resolution(n: float, alpha: float) -> float:
    """`smallest_margin` without any discordant item, in closed form: z²/(n + z²)."""
    z = critical_value(alpha)
    return z * z / (n + z * z)


def discordance(n: float, discordant: float) -> float:
    """Estimate of the share of discordant items to expect in a repetition: (d + 1)/(n + 2).

    Laplace's rule: having seen none does not mean that there are none.
    """
    return (discordant + 1) / (n + 2)


def power(n: float, true: float, null: float, discordance: float, alpha: float) -> float:
    """Chance that the score test shows "difference > null" when it is `true`.

    With ψ the share of discordant items and v0 the variance of one item under H0 at the expected
    table: Φ((n·(true - null) - z·sqrt(n·v0)) / sqrt(n·(ψ - true²))).
    Source: normal approximation of Nam (1997), Biometrics 53:1422-1430, for the same statistic.
    ψ is raised to |true| where it is smaller, as no table has less.
    """
    psi = max(discordance, abs(true))
    gained, lost = np.asarray(n * (psi + true) / 2), np.asarray(n * (psi - true) / 2)
    threshold = critical_value(alpha) * math.sqrt(float(null_variance(gained, lost, n, null)))
    excess = n * (true - null) - threshold
    spread = math.sqrt(n * max(psi - true * true, 0.0))
    if spread == 0:
        return float(excess > 0)
    return float(ndtr(excess / spread))


def detectable_margin(
    n: float, discordance: float, alpha: float, wanted_power: float = POWER
) -> float:
    """The margin at which a candidate of equal true accuracy passes with `wanted_power`."""
    return _smallest(lambda margin: power(n, 0.0, -margin, discordance, alpha) - wanted_power)


def detectable_effect(
    n: float, discordance: float, alpha: float, min_effect: float = 0.0, wanted_power: float = POWER
) -> float:
    """The true improvement that is shown to exceed `min_effect` with `wanted_power`."""
    return _smallest(
        lambda true: power(n, true, min_effect, discordance, alpha) - wanted_power, min_effect
    )


def exact_power(n: int, gain: float, loss: float, null: float, alpha: float) -> float:
    """`power` without approximation: the sum of P(b, c) over all tables that the test rejects.

    `gain` and `loss` are the true shares of items that only the candidate, or only the baseline,
    answers correctly; (b, c) is trinomial. At gain - loss = null this is the size of the test.
    Memory and time grow with n²: n = 1,000 means 500,000 tables.
    """
    gained, lost = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    inside = gained + lost <= n
    gained, lost = gained[inside], lost[inside]
    rejected = tango_statistic(gained, lost, n, null) >= critical_value(alpha)
    return float(np.exp(_log_trinomial(n, gained[rejected], lost[rejected], gain, loss)).sum())


def exact_outcomes(
    n: int, gain: float, loss: float, margin: float, alpha: float
) -> tuple[float, float, float]:
    """Chances of pass, cannot tell and block for a rule with only a margin; they add up to 1.

    pass: the test shows "difference > -margin". block: it does not, and shows "difference < 0".
    Arguments, memory and time as for `exact_power`.
    """
    gained, lost = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    inside = gained + lost <= n
    gained, lost = gained[inside], lost[inside]
    z = critical_value(alpha)
    passes = tango_statistic(gained, lost, n, -margin) >= z
    blocks = ~passes & (tango_statistic(gained, lost, n, 0.0) < -z)
    chances = np.exp(_log_trinomial(n, gained, lost, gain, loss))
    passed, blocked = float(chances[passes].sum()), float(chances[blocks].sum())
    return passed, 1.0 - passed - blocked, blocked


def _log_trinomial(n: int, gained: Floats, lost: Floats, gain: float, loss: float) -> Floats:
    rest = n - gained - lost
    ways = gammaln(n + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(rest + 1)
    same = max(1.0 - gain - loss, 0.0)
    log_p = ways + xlogy(gained, gain) + xlogy(lost, loss) + xlogy(rest, same)
    return np.asarray(log_p, dtype=np.float64)


def _smallest(surplus: Callable[[float], float], start: float = 0.0) -> float:
    """Where an increasing `surplus` crosses zero in [start, 1]; 1 where it never does."""
    from scipy.optimize import brentq

    low, high = start + 1e-9, 1.0 - 1e-9
    if surplus(low) >= 0:
        return start
    if surplus(high) < 0:
        return 1.0
    return float(brentq(surplus, low, high, xtol=1e-12))
