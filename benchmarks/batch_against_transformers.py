"""Whole jobs on vLLM against the same jobs on transformers with static batches, at their best.

Prompts have about 128 tokens and answers exactly 64. transformers sorts its requests by length and
takes 8, 16, 32 and 64 of them at once; the fastest size counts. Each engine has a process of its
own, one thread, and the dtype of the weights.

`python -m benchmarks.batch_against_transformers [DOCUMENTS] [MODEL_FOLDER]` runs it alone.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.batch_overhead import (
    Comparison,
    arguments,
    demo_model,
    higher,
    rate,
    take_turns,
)
from benchmarks.measure import Measure

TARGET = 3.0
DOCUMENTS = 64
SIZES = ("8", "16", "32", "64")


def measure(documents: int = DOCUMENTS, weights: Path | None = None) -> list[Measure]:
    """Throughput of vLLM over that of transformers' best batch size, in CPU and in wall time."""
    asked = Comparison(
        weights=weights or demo_model(),
        documents=documents,
        turns=("job",),
        answer_tokens=64,
        exact=True,
    )
    fast = take_turns(asked)
    slow = take_turns(asked.model_copy(update={"backend": "transformers", "turns": SIZES}))
    return [
        higher(
            f"batch.over_transformers_{unit}",
            rate(fast, "job", unit) / max(rate(slow, size, unit) for size in SIZES),
            TARGET,
        )
        for unit in ("cpu", "wall")
    ]


if __name__ == "__main__":
    for line in measure(*arguments(DOCUMENTS)):
        print(line.line())
