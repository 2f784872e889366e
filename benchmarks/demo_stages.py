"""The demo's stages in CPU seconds, read from the run times beside their records.

The targets are the demo's budget on 2 cores: 5 minutes of wall time for all evaluations and for all
trainings are at most 600 CPU seconds each.
"""

from __future__ import annotations

from collections import defaultdict

from benchmarks.measure import Measure
from flows.demo.run import DEMO, run_demo
from pipelines.records import RunInfo, read_record

BUDGET_CPU_S = {"ingest": 120.0, "verify": 60.0, "evaluate": 600.0, "finetune": 600.0, "gate": 30.0}


def measure() -> list[Measure]:
    """Run the demo if it has not run, then sum the CPU seconds of each kind of stage."""
    if not (DEMO / "registry" / "evidence").is_dir():
        run_demo(DEMO)
    spent: defaultdict[str, float] = defaultdict(float)
    for path in (DEMO / "registry" / "evidence").rglob("*.run.json"):
        run = read_record(path, RunInfo)
        spent[run.stage.partition("@")[0]] += run.cpu_s
    return [
        Measure(
            name=f"demo.{stage}_cpu",
            measured=spent[stage],
            unit="s",
            target=budget,
            better="lower",
        )
        for stage, budget in BUDGET_CPU_S.items()
    ]
