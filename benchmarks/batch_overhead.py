"""A whole batch job against vLLM's own `LLM.generate` on the identical prompts.

Both run in one child process on one engine, in turns (A B B A), with the prefix cache emptied
before each turn. The job is timed from reading its documents to its manifest: plan (which counts
tokens), work, count, report; the reference is the call to `generate` with the same token ids and
the same sampling. Engine start and imports are in neither. Prompts have about 128 tokens and
answers at most 16. `generate` called with 16 prompts at a time (waves) is shown beside them.

`python -m benchmarks.batch_overhead [DOCUMENTS] [MODEL_FOLDER]` runs it alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import Measure
from flows.demo.run import BASE, DEMO, run_demo
from pipelines.batch.settings import Backend, EngineSettings
from pipelines.canonical import Frozen
from pipelines.subprocesses import run_module

CHILD = "benchmarks.batch_overhead_child"
TARGET = 0.97
OCCUPANCY = 0.98
DOCUMENTS = 2000


class Comparison(Frozen):
    """What the child is asked to compare."""

    weights: Path
    documents: int
    turns: tuple[str, ...]
    answer_tokens: int = 16
    exact: bool = False  # answers have neither more nor fewer tokens
    varied: bool = False  # answers of 8 to 120 tokens instead, the same on every side
    system: str = ""
    backend: Backend = "vllm"
    settings: EngineSettings = EngineSettings(max_model_len=1024)


class Turn(Frozen):
    """One turn: which side, and what it took."""

    side: str
    wall_s: float
    cpu_s: float
    completion_tokens: int
    occupancy: float


def measure(documents: int = DOCUMENTS, weights: Path | None = None) -> list[Measure]:
    """Throughput of the whole job over that of the engine's own call, and its occupancy."""
    turns = take_turns(
        Comparison(
            weights=weights or demo_model(),
            documents=documents,
            turns=("generate", "job", "waves", "job", "generate"),
        )
    )
    return [
        *(
            higher(f"batch.job_over_generate_{unit}", ratio(turns, "job", "generate", unit), TARGET)
            for unit in ("cpu", "wall")
        ),
        higher("batch.job_over_waves_cpu", ratio(turns, "job", "waves", "cpu"), 1.0),
        higher(
            "batch.occupancy",
            min(turn.occupancy for turn in turns if turn.side == "job"),
            OCCUPANCY,
        ),
    ]


def take_turns(asked: Comparison) -> list[Turn]:
    """Run the child; what each turn took goes to standard error."""
    turns = [Turn.model_validate(turn) for turn in run_module(CHILD, asked)]
    for turn in turns:
        busy = f", occupancy {turn.occupancy:.3f}" if turn.occupancy else ""
        print(
            f"  {asked.backend} {turn.side}: {turn.wall_s:.1f} s wall, {turn.cpu_s:.1f} s CPU, "
            f"{turn.completion_tokens} tokens{busy}",
            file=sys.stderr,
        )
    return turns


def ratio(turns: list[Turn], side: str, other: str, unit: str) -> float:
    """How many times as many answer tokens a second one side wrote as the other."""
    return rate(turns, side, unit) / rate(turns, other, unit)


def rate(turns: list[Turn], side: str, unit: str) -> float:
    """Answer tokens a second over all turns of one side.

    Greedy answers differ a little with the composition of the batch, so the turns of the two
    sides are compared by what they wrote, not by time alone.
    """
    taken = [turn for turn in turns if turn.side == side]
    seconds = sum(turn.cpu_s if unit == "cpu" else turn.wall_s for turn in taken)
    return sum(turn.completion_tokens for turn in taken) / seconds


def higher(name: str, measured: float, target: float) -> Measure:
    """A ratio that should be high."""
    return Measure(name=name, measured=measured, unit="ratio", target=target, better="higher")


def demo_model() -> Path:
    """The demo's base model; the demo is run if it has not been."""
    weights = DEMO / "registry" / "models" / BASE
    if not weights.is_dir():
        run_demo(DEMO)
    return weights


def arguments(documents: int) -> tuple[int, Path | None]:
    """[DOCUMENTS] [MODEL_FOLDER] of the command line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else documents
    return count, Path(sys.argv[2]) if len(sys.argv) > 2 else None


if __name__ == "__main__":
    for line in measure(*arguments(DOCUMENTS)):
        print(line.line())
