"""Tests of one task's decision: each outcome, its words, and how often it errs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.judgement import compare, judge, worst
from evals.pairing import PairedTask
from evals.policy import Superiority, TaskRule
from evals.power import exact_power
from evals.statistics import Floats
from pipelines.errors import UnusableEvidence

ALPHA = 0.05


def paired(candidate: Floats, baseline: Floats, *, higher: bool = True) -> PairedTask:
    return PairedTask(
        task="general/hellaswag",
        metric="acc",
        higher_is_better=higher,
        candidate=np.asarray(candidate, dtype=np.float64),
        baseline=np.asarray(baseline, dtype=np.float64),
    )


def table(n: int, gained: int, lost: int, *, both: int = 0) -> PairedTask:
    """`both` items answered by both models, the rest of the concordant ones by neither."""
    candidate, baseline = np.zeros(n), np.zeros(n)
    candidate[:gained] = 1
    baseline[gained : gained + lost] = 1
    candidate[gained + lost : gained + lost + both] = 1
    baseline[gained + lost : gained + lost + both] = 1
    return paired(candidate, baseline)


def test_a_small_loss_within_a_wide_margin_passes_and_says_its_numbers() -> None:
    verdict = judge(table(100, 9, 11, both=34), TaskRule(margin=0.15), ALPHA)
    assert verdict.outcome == "pass"
    assert (verdict.candidate, verdict.baseline, verdict.difference) == (0.43, 0.45, -0.02)
    assert verdict.superiority == "not asked"
    assert verdict.reason == (
        "acc of the candidate 0.430, baseline 0.450, difference -0.020, 90 % CI [-0.097, +0.056] "
        "on 100 items (9 items gained, 11 lost); margin 0.150: non-inferior; smallest margin these "
        "100 items could have shown: 0.076; an equal candidate passes in 80 % of cases at 0.118"
    )


def test_too_few_items_cannot_tell() -> None:
    verdict = judge(table(50, 0, 0, both=20), TaskRule(margin=0.02), ALPHA)
    assert verdict.outcome == "cannot_tell"
    assert verdict.smallest_margin == pytest.approx(0.0513, abs=1e-4)
    assert "cannot tell" in verdict.reason
    assert "0.051" in verdict.reason


def test_shown_harm_blocks() -> None:
    verdict = judge(table(300, 5, 35, both=100), TaskRule(margin=0.05), ALPHA)
    assert verdict.outcome == "block"
    assert verdict.interval[1] < 0
    assert "worse than the baseline" in verdict.reason


def test_harm_that_is_shown_to_be_smaller_than_the_margin_passes() -> None:
    verdict = judge(table(2_000, 5, 35, both=900), TaskRule(margin=0.05), ALPHA)
    assert verdict.interval[1] < 0
    assert verdict.outcome == "pass"


@pytest.mark.parametrize(("minimum", "outcome"), [(0.43, "pass"), (0.44, "block")])
def test_a_score_below_the_minimum_blocks(minimum: float, outcome: str) -> None:
    rule = TaskRule(margin=0.15, minimum=minimum)
    verdict = judge(table(100, 9, 11, both=34), rule, ALPHA)
    assert verdict.outcome == outcome
    assert f"minimum {minimum:.3f}" in verdict.reason


def test_superiority_is_asked_of_the_effect_and_not_of_the_average() -> None:
    clear = table(300, 60, 10, both=150)
    assert judge(clear, TaskRule(superiority=Superiority()), ALPHA).superiority == "shown"
    assert judge(clear, TaskRule(superiority=Superiority(min_effect=0.1)), ALPHA).outcome == "pass"
    refused = judge(clear, TaskRule(superiority=Superiority(min_effect=0.15)), ALPHA)
    assert (refused.outcome, refused.superiority) == ("block", "not shown")
    assert "better by more than 0.150: not shown" in refused.reason
    assert "a true gain of" in refused.reason


def test_fewer_items_than_the_policy_asks_for_cannot_tell() -> None:
    rule = TaskRule(superiority=Superiority(), min_items=300)
    verdict = judge(table(299, 60, 10, both=150), rule, ALPHA)
    assert verdict.outcome == "cannot_tell"
    assert "299 items, and the policy asks for 300" in verdict.reason


def test_a_metric_that_the_record_does_not_hold_is_refused() -> None:
    with pytest.raises(UnusableEvidence, match="asks for acc_norm, and the record holds acc"):
        judge(table(100, 0, 0), TaskRule(margin=0.1, metric="acc_norm"), ALPHA)
    assert judge(table(100, 0, 0), TaskRule(margin=0.1, metric="acc"), ALPHA).outcome == "pass"


def test_one_item_cannot_tell() -> None:
    assert judge(table(1, 0, 0), TaskRule(margin=0.5), ALPHA).outcome == "cannot_tell"
    assert judge(table(1, 1, 0), TaskRule(superiority=Superiority()), ALPHA).outcome == "block"
    single = paired(np.array([0.7]), np.array([0.7]))
    assert judge(single, TaskRule(margin=0.5), ALPHA).outcome == "cannot_tell"


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_all_wrong_and_all_right_are_decided_by_their_number(level: float) -> None:
    for n, outcome in [(100, "cannot_tell"), (200, "pass")]:
        same = paired(np.full(n, level), np.full(n, level))
        assert judge(same, TaskRule(margin=0.02), ALPHA).outcome == outcome


def test_lower_is_better_turns_the_comparison() -> None:
    worse = table(300, 35, 5)
    turned = paired(worse.candidate, worse.baseline, higher=False)
    verdict = judge(turned, TaskRule(margin=0.05, minimum=0.2), ALPHA)
    assert verdict.outcome == "block"
    assert verdict.difference == pytest.approx(-0.1)
    assert verdict.candidate > verdict.baseline
    assert "lower is better" in verdict.reason
    assert "maximum 0.200: met" in verdict.reason


def test_scores_that_are_not_binary_are_compared_by_bootstrap() -> None:
    generator = np.random.default_rng(2)
    baseline = generator.uniform(size=400)
    candidate = np.clip(baseline + generator.normal(-0.005, 0.05, size=400), 0, 1)
    verdict = judge(paired(candidate, baseline), TaskRule(margin=0.02), ALPHA)
    assert verdict.outcome == "pass"
    assert verdict.mcnemar_p is None
    assert "paired bootstrap" in verdict.reason
    assert verdict == judge(paired(candidate, baseline), TaskRule(margin=0.02), ALPHA)
    harmed = judge(paired(candidate - 0.1, baseline), TaskRule(margin=0.02), ALPHA)
    assert harmed.outcome == "block"


def test_equal_scores_of_a_few_items_prove_nothing_by_bootstrap() -> None:
    scores = np.linspace(0.1, 0.9, 50)
    verdict = judge(paired(scores, scores), TaskRule(margin=0.02), ALPHA)
    assert verdict.outcome == "cannot_tell"
    assert verdict.smallest_margin == pytest.approx(0.0513, abs=1e-4)
    better = judge(paired(scores + 0.01, scores), TaskRule(superiority=Superiority()), ALPHA)
    assert better.superiority == "not shown"


def test_a_margin_is_weighed_against_the_range_of_the_scores() -> None:
    points = np.linspace(0, 10, 200)  # graded from 0 to 10: one item weighs ten times as much
    assert judge(paired(points, points), TaskRule(margin=0.1), ALPHA).outcome == "cannot_tell"
    assert judge(paired(points, points), TaskRule(margin=0.2), ALPHA).outcome == "pass"


def test_block_outweighs_doubt_and_doubt_outweighs_pass() -> None:
    assert worst(["pass", "cannot_tell", "block"]) == "block"
    assert worst(["pass", "cannot_tell"]) == "cannot_tell"
    assert worst(["pass"]) == "pass"


def simulate(gain: float, loss: float, *, seeds: int, n: int, margin: float) -> list[str]:
    generator = np.random.default_rng(20)
    outcomes = []
    for _ in range(seeds):
        gained, lost, _same = generator.multinomial(n, [gain, loss, 1 - gain - loss])
        outcomes.append(judge(table(n, gained, lost), TaskRule(margin=margin), ALPHA).outcome)
    return outcomes


def test_an_equal_model_passes_and_a_worse_one_does_not() -> None:
    n, margin, seeds = 1_000, 0.05, 300
    equal = simulate(0.05, 0.05, seeds=seeds, n=n, margin=margin)
    assert equal.count("pass") / seeds >= 0.97
    assert equal.count("block") == 0
    worse = simulate(0.05, 0.10, seeds=seeds, n=n, margin=margin)
    assert exact_power(n, 0.05, 0.10, -margin, ALPHA) < 0.052
    assert worse.count("pass") / seeds < ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / seeds)
    assert worse.count("block") / seeds > 0.9


def test_an_equal_model_on_a_hundred_items_is_mostly_not_told_apart_at_five_points() -> None:
    outcomes = simulate(0.1, 0.1, seeds=200, n=100, margin=0.05)
    assert outcomes.count("cannot_tell") > outcomes.count("pass")


outcomes_of_items = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(scores=outcomes_of_items, margin=st.floats(0.001, 0.5))
def test_the_same_answers_as_the_baseline_never_block(scores: list[float], margin: float) -> None:
    same = np.array(scores)
    assert judge(paired(same, same), TaskRule(margin=margin), ALPHA).outcome != "block"


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(5, 300),
    shares=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    margins=st.tuples(st.floats(0.001, 0.5), st.floats(0.001, 0.5)),
)
def test_a_wider_margin_never_turns_a_pass(
    n: int, shares: tuple[float, float], margins: tuple[float, float]
) -> None:
    pair = table(n, int(n * shares[0]), int(n * shares[1]))
    narrow = judge(pair, TaskRule(margin=min(margins)), ALPHA)
    wide = judge(pair, TaskRule(margin=max(margins)), ALPHA)
    assert not (narrow.outcome == "pass" and wide.outcome != "pass")


@settings(max_examples=60, deadline=None)
@given(n=st.integers(5, 300), shares=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)))
def test_what_is_shown_better_is_never_harm(n: int, shares: tuple[float, float]) -> None:
    pair = table(n, int(n * shares[0]), int(n * shares[1]))
    if compare(pair, ALPHA).test(0.0).shown:
        rule = TaskRule(margin=0.001, superiority=Superiority())
        assert judge(pair, rule, ALPHA).outcome == "pass"


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40),
)
def test_the_interval_holds_the_difference_for_any_scores(
    scores: list[tuple[float, float]],
) -> None:
    candidate, baseline = np.array(scores).T
    seen = compare(paired(candidate, baseline), ALPHA)
    assert seen.interval[0] <= seen.gain <= seen.interval[1]
    assert seen.smallest_margin > 0
