"""The gate's level where items come in clusters that fall together, and what ignoring them does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from benchmarks.gate_power import ALPHA, DISCORDANT, say
from benchmarks.measure import Measure
from evals.judgement import judge
from evals.pairing import PairedTask
from evals.policy import TaskRule

MARGIN, SEEDS, SIZE, TOGETHER = 0.05, 500, 10, 0.8
CLUSTERS = (30, 60, 100, 200)


def measure() -> list[Measure]:
    """The largest share of candidates at the margin that pass, over the numbers of clusters."""
    say(f"| clusters of {SIZE} | 5 points worse passes | ignoring clusters | equal passes |")
    say("| --- | --- | --- | --- |")
    return [
        Measure(
            name="gate.clustered_worse_candidate_passes",
            measured=max(_level(count) for count in CLUSTERS),
            unit="share",
            target=ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / SEEDS),
            better="lower",
        )
    ]


def _level(count: int) -> float:
    worse = [_task(np.random.default_rng([seed, count]), count, MARGIN) for seed in range(SEEDS)]
    equal = [_task(np.random.default_rng([seed, count, 1]), count, 0.0) for seed in range(SEEDS)]
    share = _passing(worse)
    ignoring = _passing([replace(task, clusters=None) for task in worse])
    say(f"| {count} | {share:.1%} | {ignoring:.1%} | {_passing(equal):.1%} |")
    return share


def _passing(tasks: list[PairedTask]) -> float:
    rule = TaskRule(margin=MARGIN)
    return sum(judge(task, rule, ALPHA).outcome == "pass" for task in tasks) / len(tasks)


def _task(draw: np.random.Generator, count: int, loss: float) -> PairedTask:
    """Clusters of SIZE items; in a share TOGETHER of them all items change alike."""
    alone = draw.random((count, SIZE))
    alike = np.broadcast_to(draw.random((count, 1)), alone.shape)
    chance = np.where(draw.random((count, 1)) < TOGETHER, alike, alone).ravel()
    gained, lost = chance < (DISCORDANT - loss) / 2, chance > 1 - (DISCORDANT + loss) / 2
    right = draw.random(count * SIZE) < 0.6
    return PairedTask(
        task="simulated/clusters",
        metric="acc",
        higher_is_better=True,
        candidate=np.where(gained, 1.0, np.where(lost, 0.0, right)),
        baseline=np.where(gained, 0.0, np.where(lost, 1.0, right)),
        clusters=tuple(f"{n // SIZE}" for n in range(count * SIZE)),
    )
