"""What the gate answers to an equal candidate, by items and margin, beside exact chances."""

from __future__ import annotations

import math
import sys

import numpy as np

from benchmarks.measure import Measure
from evals.judgement import judge
from evals.pairing import PairedTask
from evals.policy import TaskRule
from evals.power import exact_outcomes
from pipelines.records import Outcome

DISCORDANT, ALPHA, SEEDS = 0.1, 0.05, 400
ITEMS, MARGINS = (100, 200, 500, 1000, 2000), (0.01, 0.02, 0.03, 0.05)
_BASE_ACCURACY = 0.6
_OUTCOMES: tuple[Outcome, ...] = ("pass", "cannot_tell", "block")


def measure() -> list[Measure]:
    """The largest distance of a simulated share of any outcome from its exact chance."""
    say("| items | margin | pass (exact) | cannot tell (exact) | block (exact) |")
    say("| --- | --- | --- | --- | --- |")
    return [
        Measure(
            name="gate.power_from_exact",
            measured=max(_gap(n, margin) for n in ITEMS for margin in MARGINS),
            unit="share",
            # Three standard errors of the worst case, and one more: the largest of 60 is taken.
            target=4 * math.sqrt(0.25 / SEEDS),
            better="lower",
        )
    ]


def draw_task(draw: np.random.Generator, n: int, loss: float) -> PairedTask:
    """Paired outcomes: a true difference of -loss, a share DISCORDANT of them discordant."""
    baseline = draw.random(n) < _BASE_ACCURACY
    chance = draw.random(n)
    gains = (DISCORDANT - loss) / 2 / (1 - _BASE_ACCURACY)
    losses = (DISCORDANT + loss) / 2 / _BASE_ACCURACY
    candidate = np.where(baseline, chance >= losses, chance < gains)
    return PairedTask(
        task="simulated/task",
        metric="acc",
        higher_is_better=True,
        candidate=candidate.astype(np.float64),
        baseline=baseline.astype(np.float64),
    )


def say(text: str) -> None:
    """Print what is found on the way, beside the measures on standard output."""
    print(f"  {text}", file=sys.stderr, flush=True)


def _gap(n: int, margin: float) -> float:
    rule = TaskRule(margin=margin)
    draws = (np.random.default_rng([seed, n]) for seed in range(SEEDS))
    found = [judge(draw_task(draw, n, 0.0), rule, ALPHA).outcome for draw in draws]
    seen = [found.count(outcome) / SEEDS for outcome in _OUTCOMES]
    exact = exact_outcomes(n, DISCORDANT / 2, DISCORDANT / 2, margin, ALPHA)
    cells = [f"{s:.1%} ({e:.1%})" for s, e in zip(seen, exact, strict=True)]
    say(f"| {n} | {margin} | {' | '.join(cells)} |")
    return max(abs(s - e) for s, e in zip(seen, exact, strict=True))
