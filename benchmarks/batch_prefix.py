"""A shared system prompt of about 500 tokens: whole jobs with the prefix cache on and off.

The cache is a setting of the engine's start, so each side has a process of its own.

`python -m benchmarks.batch_prefix [DOCUMENTS] [MODEL_FOLDER]` runs it alone.
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
from pipelines.batch.settings import EngineSettings

TARGET = 2.0
DOCUMENTS = 128
SYSTEM = "You sort documents, and you answer with a list of words. " * 38  # about 500 tokens


def measure(documents: int = DOCUMENTS, weights: Path | None = None) -> list[Measure]:
    """Throughput of the job with the cache over that without, in CPU and in wall time."""
    on, off = (
        take_turns(
            Comparison(
                weights=weights or demo_model(),
                documents=documents,
                turns=("job",),
                system=SYSTEM,
                settings=EngineSettings(max_model_len=1024, prefix_caching=cached),
            )
        )
        for cached in (True, False)
    )
    return [
        higher(f"batch.prefix_cache_{unit}", rate(on, "job", unit) / rate(off, "job", unit), TARGET)
        for unit in ("cpu", "wall")
    ]


if __name__ == "__main__":
    for line in measure(*arguments(DOCUMENTS)):
        print(line.line())
