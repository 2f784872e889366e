"""Planning a job: memory that does not grow with the corpus, and documents per CPU second.

Each plan runs in a process of its own, over JSON lines of about 130 bytes: 10,000 and `documents`
of them with estimated tokens. With every token counted, 4,000 documents of about 500 tokens are
planned, against the tokenizer alone on the same prompts. Imports are not in the times; reading,
hashing, finding duplicates, rendering and writing the plan are.

`python -m benchmarks.batch_plan [DOCUMENTS] [MODEL_FOLDER]` runs it alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Literal

from benchmarks.measure import Measure
from pipelines.canonical import Frozen
from pipelines.subprocesses import run_module

CHILD = "benchmarks.batch_plan_child"
SMALL = 10_000
COUNTED = 4_000
_REPEATED = 30  # of the sentence, in documents whose tokens are counted
_TEXT = "It is about the licence of a package and says what may be done with it."


class Planning(Frozen):
    """What the child is asked to do."""

    corpus: Path
    weights: Path
    how: Literal["estimate", "count", "tokenizer"]


class Planned(Frozen):
    """What it took."""

    documents: int
    wall_s: float
    cpu_s: float
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Documents per CPU second."""
        return self.documents / self.cpu_s


def measure(documents: int = 1_000_000, weights: Path | None = None) -> list[Measure]:
    """Growth of peak memory, rate without tokenisation, and rate beside the tokenizer's own."""
    model = weights or _demo_model()
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as folder:

        def run(count: int, how: Literal["estimate", "count", "tokenizer"]) -> Planned:
            repeated = 1 if how == "estimate" else _REPEATED
            corpus = Path(folder, f"{count}-{repeated}.jsonl")
            if not corpus.exists():
                _write(corpus, count, repeated)
            found = run_module(CHILD, Planning(corpus=corpus, weights=model, how=how))
            done = Planned.model_validate(found)
            print(
                f"  {how} {count}: {done.wall_s:.1f} s wall, {done.cpu_s:.1f} s CPU, "
                f"{done.rate:.0f} documents/CPU s, {done.peak_bytes / 1e6:.0f} MB",
                file=sys.stderr,
            )
            return done

        small, large = run(SMALL, "estimate"), run(documents, "estimate")
        counted, alone = run(COUNTED, "count"), run(COUNTED, "tokenizer")
    return [
        _lower("batch.plan_memory_growth", large.peak_bytes / small.peak_bytes, 1.1),
        _higher("batch.plan_documents_per_cpu_s", large.rate, "1/s", 20_000),
        _higher("batch.plan_over_tokenizer_alone", counted.rate / alone.rate, "ratio", 0.8),
    ]


def _lower(name: str, measured: float, target: float) -> Measure:
    return Measure(name=name, measured=measured, unit="ratio", target=target, better="lower")


def _higher(name: str, measured: float, unit: str, target: float) -> Measure:
    return Measure(name=name, measured=measured, unit=unit, target=target, better="higher")


def _write(path: Path, count: int, repeated: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = " ".join([f"This is document number {number}.", *[_TEXT] * repeated])
            line = {"id": f"d{number}", "text": text}
            file.write(json.dumps(line) + "\n")


def _demo_model() -> Path:
    """The demo's base model; the demo is run if it has not been."""
    from flows.demo.run import BASE, DEMO, run_demo

    weights = DEMO / "registry" / "models" / BASE
    if not weights.is_dir():
        run_demo(DEMO)
    return weights


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for line in measure(count, Path(sys.argv[2]) if len(sys.argv) > 2 else None):
        print(line.line())
