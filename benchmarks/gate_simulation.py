"""How often the gate errs, and how often fixed tolerances and unpaired tests do, by simulation.

A verdict is about eight tasks of 1,000 items, a tenth of the items discordant, margin 5 points,
alpha 0.05. Equal: the candidate's true accuracy is the baseline's on every task. Worse: it is 5
points below on one task. Then: the three outcomes by number of items and margin beside their exact
chances, and the level where items come in clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from benchmarks import gate_clusters, gate_power
from benchmarks.gate_power import draw_task, say
from benchmarks.measure import Measure
from evals.judgement import judge
from evals.pairing import PairedTask
from evals.policy import TaskRule
from evals.statistics import PairedCounts, mcnemar_exact
from pipelines.records import Outcome

TASKS, ITEMS, MARGIN, ALPHA = 8, 1000, 0.05, 0.05
SEEDS = 2000
GATE = "paired score test (the gate)"

Rule = Callable[[PairedTask], bool]


def measure(seeds: int = SEEDS) -> list[Measure]:
    """Shares of verdicts that pass, distance from exact chances, and the clustered level."""
    equal = [_verdict(np.random.default_rng([seed, 0]), 0.0) for seed in range(seeds)]
    worse = [_verdict(np.random.default_rng([seed, 1]), MARGIN) for seed in range(seeds)]
    say("| way of deciding | passes an equal candidate | passes one 5 points worse |")
    say("| --- | --- | --- |")
    for name in equal[0]:
        shares = [sum(v[name] for v in verdicts) / seeds for verdicts in (equal, worse)]
        say(f"| {name} | {shares[0]:.1%} | {shares[1]:.1%} |")
    noise = 2 * math.sqrt(0.05 * 0.95 / seeds)
    return [
        Measure(
            name="gate.equal_candidate_passes",
            measured=sum(verdict[GATE] for verdict in equal) / seeds,
            unit="share",
            target=0.95,
            better="higher",
        ),
        Measure(
            name="gate.worse_candidate_passes",
            measured=sum(verdict[GATE] for verdict in worse) / seeds,
            unit="share",
            target=0.05 + noise,
            better="lower",
        ),
        *gate_power.measure(),
        *gate_clusters.measure(),
    ]


def _verdict(draw: np.random.Generator, loss: float) -> dict[str, bool]:
    """Whether each way of deciding passes one candidate, `loss` worse on the first task."""
    tasks = [draw_task(draw, ITEMS, loss if number == 0 else 0.0) for number in range(TASKS)]
    rules: dict[str, Rule] = {
        GATE: lambda task: _outcome(task, MARGIN) == "pass",
        "fixed tolerance of 3 points": lambda task: _difference(task) >= -0.03,
        "fixed tolerance of 5 points": lambda task: _difference(task) >= -0.05,
        "unpaired test at the same margin": _unpaired,
        "McNemar finds no difference": lambda task: _mcnemar(task) > ALPHA,
    }
    return {name: all(map(passes, tasks)) for name, passes in rules.items()}


def _outcome(task: PairedTask, margin: float) -> Outcome:
    return judge(task, TaskRule(margin=margin), ALPHA).outcome


def _difference(task: PairedTask) -> float:
    return float(task.candidate.mean() - task.baseline.mean())


def _unpaired(task: PairedTask) -> bool:
    """Non-inferiority by two independent proportions, as if the items were others."""
    p, q, n = float(task.candidate.mean()), float(task.baseline.mean()), len(task.candidate)
    error = math.sqrt((p * (1 - p) + q * (1 - q)) / n)
    return p - q + MARGIN > float(ndtri(1 - ALPHA)) * error


def _mcnemar(task: PairedTask) -> float:
    return mcnemar_exact(PairedCounts.of(task.candidate, task.baseline))


if __name__ == "__main__":
    import sys

    for line in measure(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS):
        print(line.line())
