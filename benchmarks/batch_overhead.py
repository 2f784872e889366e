"""A whole batch job against vLLM's own `LLM.generate` on the identical prompts.

Both run in one child process on one engine, in turns (A B B A), with the prefix cache emptied
before each turn. The job is timed from reading its documents to its manifest: plan (which counts
tokens), work, count, report; the reference is the call to `generate` with the same token ids and
the same sampling. Engine start and imports are in neither. Prompts have about 128 tokens and
answers at most 16.

`python -m benchmarks.batch_overhead [DOCUMENTS] [MODEL_FOLDER]` runs it alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import Measure
from flows.demo.run import BASE, DEMO, run_demo
from pipelines.canonical import Frozen
from pipelines.subprocesses import run_module

CHILD = "benchmarks.batch_overhead_child"
TARGET = 0.97


class Comparison(Frozen):
    """What the child is asked to compare."""

    weights: Path
    documents: int = 256
    turns: tuple[str, ...] = ("generate", "job", "job", "generate")


class Turn(Frozen):
    """One turn: which side, and what it took."""

    side: str
    wall_s: float
    cpu_s: float
    completion_tokens: int


def measure(documents: int = 256, weights: Path | None = None) -> list[Measure]:
    """Throughput of the whole job over that of the engine's own call, in CPU and in wall time."""
    asked = Comparison(weights=weights or _demo_model(), documents=documents)
    turns = [Turn.model_validate(turn) for turn in run_module(CHILD, asked)]
    for turn in turns:
        print(f"  {turn.side}: {turn.wall_s:.1f} s wall, {turn.cpu_s:.1f} s CPU", file=sys.stderr)
    return [
        Measure(
            name=f"batch.job_over_generate_{unit}",
            measured=_rate(turns, "job", unit) / _rate(turns, "generate", unit),
            unit="ratio",
            target=TARGET,
            better="higher",
        )
        for unit in ("cpu", "wall")
    ]


def _rate(turns: list[Turn], side: str, unit: str) -> float:
    """Answer tokens a second over all turns of one side.

    Greedy answers differ a little with the composition of the batch, so the turns of the two
    sides are compared by what they wrote, not by time alone.
    """
    taken = [turn for turn in turns if turn.side == side]
    seconds = sum(turn.cpu_s if unit == "cpu" else turn.wall_s for turn in taken)
    return sum(turn.completion_tokens for turn in taken) / seconds


def _demo_model() -> Path:
    """The demo's base model; the demo is run if it has not been."""
    weights = DEMO / "registry" / "models" / BASE
    if not weights.is_dir():
        run_demo(DEMO)
    return weights


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    for line in measure(count, Path(sys.argv[2]) if len(sys.argv) > 2 else None):
        print(line.line())
