"""`python -m benchmarks [PREFIX]`: run the benchmarks whose names start with PREFIX.

Prints one line a measure and writes benchmarks/results.json. Exits 0 even where a target is
missed: a figure is for people to judge, and this machine may be busy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    batch_against_transformers,
    batch_commit,
    batch_overhead,
    batch_plan,
    batch_prefix,
    batch_resume,
    batch_waves,
    demo_stages,
    evaluation_overhead,
    gate_simulation,
    ingest_local,
    store_transfer,
    unchanged_night,
    verify_detection,
    verify_speed,
)
from benchmarks.measure import Measure
from pipelines.errors import UnknownName

BENCHMARKS: dict[str, Callable[[], list[Measure]]] = {
    "demo.stages": demo_stages.measure,
    "batch.overhead": batch_overhead.measure,
    "batch.plan": batch_plan.measure,
    "batch.against_transformers": batch_against_transformers.measure,
    "batch.waves": batch_waves.measure,
    "batch.prefix": batch_prefix.measure,
    "batch.commit": batch_commit.measure,
    "batch.resume": batch_resume.measure,
    "evaluation.overhead": evaluation_overhead.measure,
    "gate.simulation": gate_simulation.measure,
    "ingest.s3": store_transfer.measure,
    "ingest.local": ingest_local.measure,
    "night.unchanged": unchanged_night.measure,
    "verify.speed": verify_speed.measure,
    "verify.detection": verify_detection.measure,
}
RESULTS = Path(__file__).with_name("results.json")


def main(prefix: str) -> None:
    """Run what `prefix` chooses; results of other benchmarks in the file are kept."""
    chosen = [name for name in BENCHMARKS if name.startswith(prefix)]
    if not chosen:
        raise UnknownName("benchmarks", "benchmark", prefix, list(BENCHMARKS))
    results = {
        entry["name"]: entry
        for entry in (json.loads(RESULTS.read_text()) if RESULTS.is_file() else [])
    }
    for name in chosen:
        for measure in BENCHMARKS[name]():
            print(measure.line(), flush=True)
            results[measure.name] = {**measure.model_dump(), "met": measure.met}
    RESULTS.write_text(json.dumps(list(results.values()), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "")
    except UnknownName as error:
        sys.exit(f"benchmarks: {error}")
