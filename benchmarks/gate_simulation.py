"""The gate's error rates by simulation, and its power against exact calculation.

A verdict is over 8 tasks of 1,000 items each, a tenth of them discordant, at a margin of 5 points;
2,000 seeded verdicts each for a candidate of equal true accuracy and for one that is truly 5 points
worse on one task. The same draws are judged by what is common in the field: a fixed tolerance, and
an unpaired test. Every verdict is made by `evals.judgement.judge`.

`python -m benchmarks.gate_simulation [SEEDS]` runs it alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from benchmarks.measure import Measure
from evals.judgement import judge, worst
from evals.pairing import PairedTask
from evals.policy import TaskRule
from evals.power import exact_power
from pipelines.records import Outcome

TASKS, ITEMS, DISCORDANT, MARGIN, ALPHA = 8, 1000, 0.1, 0.05, 0.05
SEEDS = 2000
_BASE_ACCURACY = 0.6
_POWER_SEEDS = 400
_SIZES = ((200, 0.05), (200, 0.1), (500, 0.05), (1000, 0.02), (1000, 0.03))

Rule = Callable[[PairedTask], bool]


def measure(seeds: int = SEEDS) -> list[Measure]:
    """Shares of verdicts that pass, and the largest distance of simulated from exact power."""
    equal = [_verdict(np.random.default_rng([seed, 0]), 0.0) for seed in range(seeds)]
    worse = [_verdict(np.random.default_rng([seed, 1]), MARGIN) for seed in range(seeds)]
    for name in equal[0]:
        shares = [sum(v[name] for v in verdicts) / seeds for verdicts in (equal, worse)]
        _say(f"{name}: passes an equal candidate {shares[0]:.1%}, a worse one {shares[1]:.1%}")
    noise = 2 * math.sqrt(0.05 * 0.95 / seeds)
    return [
        Measure(
            name="gate.equal_candidate_passes",
            measured=sum(verdict["paired score test (the gate)"] for verdict in equal) / seeds,
            unit="share",
            target=0.95,
            better="higher",
        ),
        Measure(
            name="gate.worse_candidate_passes",
            measured=sum(verdict["paired score test (the gate)"] for verdict in worse) / seeds,
            unit="share",
            target=0.05 + noise,
            better="lower",
        ),
        Measure(
            name="gate.power_from_exact",
            measured=max(_power_gap(n, margin) for n, margin in _SIZES),
            unit="share",
            target=3 * math.sqrt(0.25 / _POWER_SEEDS),
            better="lower",
        ),
    ]


def _verdict(draw: np.random.Generator, loss: float) -> dict[str, bool]:
    """Whether each way of deciding passes one candidate, `loss` worse on the first task."""
    tasks = [_task(draw, ITEMS, loss if number == 0 else 0.0) for number in range(TASKS)]
    rules: dict[str, Rule] = {
        "paired score test (the gate)": lambda task: _outcome(task, MARGIN) == "pass",
        "fixed tolerance of 3 points": lambda task: _difference(task) >= -0.03,
        "fixed tolerance of 5 points": lambda task: _difference(task) >= -0.05,
        "unpaired test at the same margin": _unpaired,
        "McNemar finds no difference": lambda task: _mcnemar(task) > ALPHA,
    }
    return {name: all(map(passes, tasks)) for name, passes in rules.items()}


def _task(draw: np.random.Generator, n: int, loss: float) -> PairedTask:
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


def _outcome(task: PairedTask, margin: float) -> Outcome:
    return worst([judge(task, TaskRule(margin=margin), ALPHA).outcome])


def _difference(task: PairedTask) -> float:
    return float(task.candidate.mean() - task.baseline.mean())


def _unpaired(task: PairedTask) -> bool:
    """Non-inferiority by two independent proportions, as if the items were others."""
    p, q, n = float(task.candidate.mean()), float(task.baseline.mean()), len(task.candidate)
    error = math.sqrt((p * (1 - p) + q * (1 - q)) / n)
    return p - q + MARGIN > float(ndtri(1 - ALPHA)) * error


def _mcnemar(task: PairedTask) -> float:
    p_value = judge(task, TaskRule(margin=MARGIN), ALPHA).mcnemar_p
    return 1.0 if p_value is None else p_value


def _power_gap(n: int, margin: float) -> float:
    """Distance of the share of equal candidates that pass from the exact probability of it."""
    draws = (np.random.default_rng([seed, n]) for seed in range(_POWER_SEEDS))
    passed = sum(_outcome(_task(draw, n, 0.0), margin) == "pass" for draw in draws)
    exact = exact_power(n, DISCORDANT / 2, DISCORDANT / 2, -margin, ALPHA)
    seen = passed / _POWER_SEEDS
    _say(f"{n} items, margin {margin}: an equal task passes {seen:.1%}, exactly {exact:.1%}")
    return abs(seen - exact)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    for line in measure(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS):
        print(line.line())
