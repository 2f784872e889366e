"""An evaluation of ours against lm-eval's own run of the same tasks on the same backend.

Both run once per kind of task, each in processes of its own, and all CPU seconds count: start and
imports, digests, blocks kept, per-item results and the report on our side. lm-eval is called
through `simple_evaluate` with the arguments that we give its model class, and without indexing the
tasks that it ships, so that it does nothing that we leave out by choice. Choices are items of about
150 tokens with three answers of one letter; texts are answers of at most 16 tokens.

`python -m benchmarks.evaluation_overhead [MODEL_FOLDER]` runs it alone.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Measure
from evals.engines import scoring_environment
from evals.suite_runs import render_task
from evals.suites import load_suite
from flows.demo.run import BASE, DEMO, run_demo
from pipelines.canonical import Frozen
from pipelines.subprocesses import run_module

CHILD = "benchmarks.evaluation_overhead_child"
TARGET = 1.03
KINDS = ("choices", "texts")
ITEMS = 192  # of each kind: three blocks
_WORDS = ("harbour", "quiet", "seven", "maple", "engine", "river", "carbon", "window", "signal")


class Turn(Frozen):
    """One run: which side, of which suite; `tasks` is a folder that lm-eval reads."""

    side: str
    weights: Path
    suite: Path
    tasks: Path
    scratch: Path


def measure(weights: Path | None = None) -> list[Measure]:
    """CPU seconds of ours over lm-eval's, for choices and for texts."""
    model = weights or _demo_model()
    measures = []
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as made:
        for kind in KINDS:
            suite, tasks = write_suite(Path(made) / kind, kind), Path(made) / kind / "rendered"
            tasks.mkdir()
            render_task(suite, kind, load_suite(suite).tasks[kind], tasks)
            seconds = {}
            for side in ("lm-eval", "weighbridge"):
                scratch = Path(made) / kind / side
                turn = Turn(side=side, weights=model, suite=suite, tasks=tasks, scratch=scratch)
                before = _cpu_seconds()
                run_module(CHILD, turn, env={**scoring_environment(), "HF_HOME": str(scratch)})
                seconds[side] = _cpu_seconds() - before
                print(f"  {kind}, {side}: {seconds[side]:.1f} s CPU", file=sys.stderr)
            measures.append(
                Measure(
                    name=f"evaluation.{kind}_over_lm_eval_cpu",
                    measured=seconds["weighbridge"] / seconds["lm-eval"],
                    unit="ratio",
                    target=TARGET,
                    better="lower",
                )
            )
    return measures


def write_suite(folder: Path, kind: str) -> Path:
    """A suite of one task, the same items every time."""
    chooser = random.Random(1)
    rows = [
        {
            "id": f"{kind}-{n}",
            "text": " ".join(chooser.choices(_WORDS, k=110 if kind == "choices" else 12)),
            "answer": n % 3,
        }
        for n in range(ITEMS)
    ]
    definitions: dict[str, dict[str, Any]] = {
        "choices": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{text}}\nA. first\nB. second\nC. third\nAnswer with one letter.",
            "doc_to_choice": ["A", "B", "C"],
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
        "texts": {
            "output_type": "generate_until",
            "doc_to_text": "Repeat these words: {{text}}",
            "doc_to_target": "{{text}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
        },
    }
    suite = folder / "suite"
    suite.mkdir(parents=True)
    data = "".join(json.dumps(row) + "\n" for row in rows)
    (suite / f"{kind}.jsonl").write_text(data, encoding="utf-8")
    (suite / f"{kind}.yaml").write_text(
        yaml.safe_dump({"task": kind, **definitions[kind]}), encoding="utf-8"
    )
    asked = {
        "file": f"{kind}.yaml",
        "data": f"{kind}.jsonl",
        "metric": "acc" if kind == "choices" else "exact_match",
        "higher_is_better": True,
        "min_items": ITEMS,
    }
    settings = {
        "description": "Benchmark.",
        "engine": "transformers",
        "dtype": "bfloat16",
        "apply_chat_template": True,
        "batch_size": 16,
        "seed": 1,
        "tasks": {kind: asked},
    }
    (suite / "suite.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return suite


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _demo_model() -> Path:
    """The demo's base model; the demo is run if it has not been."""
    weights = DEMO / "registry" / "models" / BASE
    if not weights.is_dir():
        run_demo(DEMO)
    return weights


if __name__ == "__main__":
    for line in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        print(line.line())
