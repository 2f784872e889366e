"""Tests of what a number of items can show, against exact enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.power import (
    detectable_effect,
    detectable_margin,
    discordance,
    exact_outcomes,
    exact_power,
    power,
    resolution,
    smallest_margin,
)
from evals.statistics import PairedCounts, tango_statistic, tango_test

ALPHA = 0.05


def test_fifty_items_without_disagreement_can_show_five_points_at_best() -> None:
    assert smallest_margin(50, 0, ALPHA) == pytest.approx(resolution(50, ALPHA), abs=1e-6)
    assert resolution(50, ALPHA) == pytest.approx(0.0513, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(4, 2_000), share=st.floats(0, 0.9))
def test_smallest_margin_is_where_the_test_begins_to_show(n: int, share: float) -> None:
    half = int(n * share / 2)
    smallest = smallest_margin(n, 2 * half, ALPHA)
    counts = PairedCounts(n=n, gained=half, lost=half)
    if smallest < 0.999:
        assert tango_test(counts, -smallest - 1e-6, ALPHA).shown
    assert not tango_test(counts, -max(smallest - 1e-6, 0.0), ALPHA).shown


@pytest.mark.parametrize(
    ("n", "true", "null", "share"),
    [
        (100, 0.0, -0.1, 0.2),
        (300, 0.0, -0.05, 0.1),
        (1000, 0.0, -0.02, 0.1),
        (300, 0.08, 0.0, 0.3),
        (300, -0.05, -0.05, 0.2),
    ],
)
def test_power_agrees_with_enumeration(n: int, true: float, null: float, share: float) -> None:
    exact = exact_power(n, (share + true) / 2, (share - true) / 2, null, ALPHA)
    assert power(n, true, null, share, ALPHA) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize(("n", "share"), [(100, 0.2), (300, 0.3), (1000, 0.1)])
def test_detectable_margin_and_effect_have_the_power_they_claim(n: int, share: float) -> None:
    margin = detectable_margin(n, share, ALPHA)
    assert exact_power(n, share / 2, share / 2, -margin, ALPHA) == pytest.approx(0.8, abs=0.03)
    effect = detectable_effect(n, share, ALPHA)
    gain, loss = (share + effect) / 2, (share - effect) / 2
    assert exact_power(n, gain, loss, 0.0, ALPHA) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("n", "margin"), [(100, 0.02), (300, 0.05)])
def test_the_three_outcomes_add_up_and_pass_is_power(n: int, margin: float) -> None:
    passed, unsure, blocked = exact_outcomes(n, 0.05, 0.05, margin, ALPHA)
    assert passed == pytest.approx(exact_power(n, 0.05, 0.05, -margin, ALPHA))
    assert passed + unsure + blocked == pytest.approx(1)
    assert 0 < blocked < 0.06


def test_enumeration_agrees_with_simulation() -> None:
    generator = np.random.default_rng(19)
    draws = generator.multinomial(200, [0.04, 0.09, 0.87], size=20_000)
    z = tango_statistic(draws[:, 0].astype(float), draws[:, 1].astype(float), 200, -0.05)
    simulated = float(np.mean(z >= 1.6448536269514722))
    assert simulated == pytest.approx(exact_power(200, 0.04, 0.09, -0.05, ALPHA), abs=0.006)


def test_a_gap_that_no_number_of_items_shows_is_reported_as_the_whole_range() -> None:
    assert smallest_margin(1, 0, ALPHA) == pytest.approx(resolution(1, ALPHA), abs=1e-6)
    assert detectable_effect(2, 0.5, 0.001) == 1.0


def test_power_never_rests_on_having_seen_no_disagreement() -> None:
    assert discordance(50, 0) == pytest.approx(1 / 52)
    assert detectable_margin(50, discordance(50, 0), ALPHA) > resolution(50, ALPHA)


def test_power_without_any_spread_is_certain_one_way_or_the_other() -> None:
    assert power(50, 0.0, -0.02, 0.0, ALPHA) == 0.0
    assert power(500, 0.0, -0.02, 0.0, ALPHA) == 1.0
