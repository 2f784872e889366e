"""Tests of the paired tests: published examples, exact enumeration, and rules that must hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.power import exact_power
from evals.resampling import paired_bootstrap
from evals.statistics import (
    PairedCounts,
    critical_value,
    holm,
    mcnemar_exact,
    tango_interval,
    tango_statistic,
    tango_test,
)

ALPHA = 0.05


@st.composite
def tables(draw: st.DrawFn) -> PairedCounts:
    n = draw(st.integers(1, 400))
    gained = draw(st.integers(0, n))
    return PairedCounts(n=n, gained=gained, lost=draw(st.integers(0, n - gained)))


def test_tango_gives_the_published_example_of_contact_lenses() -> None:
    # Tango (1998), section 6.1: 44 pairs, 43 effective under both, 1 under the standard only,
    # margin 0.1; printed are Z = 1.709, p = 0.044 and a lower 90 % limit of -0.096.
    counts = PairedCounts(n=44, gained=0, lost=1)
    z = tango_statistic(np.array(0.0), np.array(1.0), 44, -0.1)
    assert float(z) == pytest.approx(1.709, abs=5e-4)
    assert tango_test(counts, -0.1, ALPHA).p_value == pytest.approx(0.044, abs=5e-4)
    assert tango_interval(counts, ALPHA)[0] == pytest.approx(-0.096, abs=5e-4)


@pytest.mark.parametrize(
    ("n", "gained", "lost", "alpha", "lower", "upper"),
    [
        # R, PropCIs::scoreci.mp(25, 28, 618) at 90 %
        (618, 28, 25, 0.05, -0.0148, 0.0247),
        # Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33: airway reactivity, 95 %
        (21, 1, 7, 0.025, -0.517, -0.026),
    ],
)
def test_tango_interval_gives_published_intervals(
    n: int, gained: int, lost: int, alpha: float, lower: float, upper: float
) -> None:
    found = tango_interval(PairedCounts(n=n, gained=gained, lost=lost), alpha)
    assert found == pytest.approx((lower, upper), abs=5e-4)


def test_tango_at_no_difference_is_mcnemars_statistic() -> None:
    z = tango_statistic(np.array(12.0), np.array(5.0), 80, 0.0)
    assert float(z) == pytest.approx((12 - 5) / np.sqrt(17))


@pytest.mark.parametrize("difference", [-0.3, -0.05, 0.0, 0.02, 0.4])
@pytest.mark.parametrize(("gained", "lost"), [(3, 9), (9, 3), (0, 4), (4, 0)])
def test_tango_uses_the_likelihood_maximum_under_the_null(
    gained: int, lost: int, difference: float
) -> None:
    n = 50
    grid = np.linspace(max(0.0, -difference), (1 - difference) / 2, 400_001)[1:-1]
    same = 1 - 2 * grid - difference
    likelihood = (
        gained * np.log(grid + difference)
        + lost * np.log(grid)
        + (n - gained - lost) * np.log(same)
    )
    q = grid[np.argmax(likelihood)]
    wanted = (gained - lost - n * difference) / np.sqrt(n * (2 * q + difference * (1 - difference)))
    z = tango_statistic(np.array(float(gained)), np.array(float(lost)), n, difference)
    assert float(z) == pytest.approx(wanted, abs=1e-3)


def test_no_discordant_item_shows_nothing_about_small_margins() -> None:
    counts = PairedCounts(n=50, gained=0, lost=0)
    assert not tango_test(counts, -0.02, ALPHA).shown
    assert not tango_test(counts, 0.0, ALPHA).shown
    lower, upper = tango_interval(counts, ALPHA)
    z = critical_value(ALPHA)
    assert upper == -lower == pytest.approx(z * z / (50 + z * z))


@pytest.mark.parametrize("n", [20, 50, 100, 133, 300])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.15])
def test_a_candidate_just_at_the_margin_passes_at_most_about_alpha(n: int, margin: float) -> None:
    sizes = [
        exact_power(n, gain, gain + margin, -margin, ALPHA)
        for gain in np.linspace(0, (1 - margin) / 2, 30)
    ]
    # Asymptotic: exact sizes stray above 0.05. At n = 133 and no gain, 0.98^133 = 0.068 is the
    # chance of seeing no loss at all.
    assert max(sizes) < 0.07
    assert np.mean(sizes) < 0.055


@settings(max_examples=150, deadline=None)
@given(counts=tables(), margin=st.floats(0.001, 0.5), alpha=st.sampled_from([0.01, 0.05, 0.2]))
def test_interval_and_test_say_the_same(counts: PairedCounts, margin: float, alpha: float) -> None:
    lower = tango_interval(counts, alpha)[0]
    if abs(lower + margin) > 1e-9:
        assert tango_test(counts, -margin, alpha).shown == (lower > -margin)


@settings(max_examples=100, deadline=None)
@given(counts=tables(), small=st.floats(0.001, 0.4), more=st.floats(0.0, 0.1))
def test_a_wider_margin_is_never_harder_to_show(
    counts: PairedCounts, small: float, more: float
) -> None:
    narrow, wide = tango_test(counts, -small, ALPHA), tango_test(counts, -small - more, ALPHA)
    assert wide.p_value <= narrow.p_value + 1e-12


@settings(max_examples=100, deadline=None)
@given(counts=tables())
def test_interval_holds_the_difference_and_mirrors(counts: PairedCounts) -> None:
    mirrored = PairedCounts(n=counts.n, gained=counts.lost, lost=counts.gained)
    lower, upper = tango_interval(counts, ALPHA)
    assert -1 <= lower <= counts.difference + 1e-9
    assert counts.difference - 1e-9 <= upper <= 1
    assert tango_interval(mirrored, ALPHA) == (-upper, -lower)


def test_nine_flips_of_fifty_give_the_known_numbers() -> None:
    counts = PairedCounts(n=50, gained=0, lost=9)
    assert counts.difference == pytest.approx(-0.18)
    assert mcnemar_exact(counts) == pytest.approx(2 * 0.5**9)
    baseline = np.ones(50)
    candidate = np.where(np.arange(50) < 9, 0.0, 1.0)
    assert PairedCounts.of(candidate, baseline) == counts
    assert paired_bootstrap(candidate, baseline).interval(0.025) == pytest.approx((-0.30, -0.08))


def test_mcnemar_of_a_model_with_itself_is_one() -> None:
    assert mcnemar_exact(PairedCounts(n=50, gained=0, lost=0)) == 1.0
    assert mcnemar_exact(PairedCounts(n=50, gained=4, lost=4)) == 1.0


def test_counts_that_are_no_table_are_refused() -> None:
    for n, gained, lost in [(0, 0, 0), (5, 4, 2), (5, -1, 0)]:
        with pytest.raises(ValueError, match="not a paired table"):
            PairedCounts(n=n, gained=gained, lost=lost)
    with pytest.raises(ValueError, match="one-sided"):
        critical_value(0.5)


def test_holm_steps_down_and_keeps_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_holm_holds_the_chance_of_any_false_rejection() -> None:
    generator = np.random.default_rng(7)
    trials = generator.uniform(size=(4_000, 4))
    rejected = sum(min(holm(list(row))) <= ALPHA for row in trials)
    assert rejected / len(trials) < ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / len(trials))


def test_bootstrap_is_the_same_twice_and_pairs_items() -> None:
    generator = np.random.default_rng(3)
    baseline = generator.normal(size=200)
    candidate = baseline + 0.01
    boot = paired_bootstrap(candidate, baseline)
    assert np.array_equal(boot.means, paired_bootstrap(candidate, baseline).means)
    # Paired: the items' own spread cancels, though it is a hundred times the difference.
    assert boot.interval(ALPHA) == pytest.approx((0.01, 0.01))
    assert boot.test(0.0, ALPHA).shown
    assert not boot.test(0.02, ALPHA).shown


def test_bootstrap_covers_the_true_difference_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(300):
        gains = generator.beta(2, 5, size=80) - generator.beta(2, 5, size=80)
        lower, upper = paired_bootstrap(gains, np.zeros(80), draws=1_000).interval(ALPHA)
        covered += lower <= 0 <= upper
    assert 0.85 < covered / 300 < 0.95


def test_bootstrap_in_parts_equals_what_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.resampling.DRAWN_AT_ONCE", 1_000)
    values = np.random.default_rng(5).normal(size=300)
    boot = paired_bootstrap(values, np.zeros(300), draws=500)
    assert boot.means.shape == (500,)
    assert abs(boot.means.mean() - values.mean()) < 0.02
