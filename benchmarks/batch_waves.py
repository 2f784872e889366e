"""Answers of different lengths: fed continuously against waves of 16.

Every wave waits for its longest answer. Both sides use one engine in one process, in turns, with
prompts of about 128 tokens and answers of exactly 8 to 120 tokens, the same for both.

`python -m benchmarks.batch_waves [DOCUMENTS] [MODEL_FOLDER]` runs it alone.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.batch_overhead import (
    Comparison,
    arguments,
    demo_model,
    higher,
    ratio,
    take_turns,
)
from benchmarks.measure import Measure

TARGET = 1.4
DOCUMENTS = 128


def measure(documents: int = DOCUMENTS, weights: Path | None = None) -> list[Measure]:
    """Throughput of continuous feeding over that of waves, in CPU and in wall time."""
    turns = take_turns(
        Comparison(
            weights=weights or demo_model(),
            documents=documents,
            turns=("continuous", "waves", "waves", "continuous"),
            exact=True,
            varied=True,
        )
    )
    return [
        higher(
            f"batch.continuous_over_waves_{unit}", ratio(turns, "continuous", "waves", unit), TARGET
        )
        for unit in ("cpu", "wall")
    ]


if __name__ == "__main__":
    for line in measure(*arguments(DOCUMENTS)):
        print(line.line())
