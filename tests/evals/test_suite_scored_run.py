"""A suite whose tasks name scorers, from prompts to a record, with a model that runs."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from evals.items import read_items
from evals.scoring import ScoringConfig, score
from evals.suites import suite_digest
from pipelines.template import template_sha256

ROWS = {
    "adds": [
        {
            "id": f"a{n}",
            "prompt": 'def f(x):\n    """Add one."""\n',
            "entry_point": "f",
            "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        }
        for n in range(2)
    ],
    "manners": [
        {"id": f"m{n}", "prompt": "Say hello.", "want": "refuse", "kind": "x"} for n in range(2)
    ],
}
SCORERS = {"adds": "humaneval", "manners": "refusal"}


def _write_suite(folder: Path) -> Path:
    folder.mkdir()
    tasks = {}
    for name, rows in ROWS.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
        task = {
            "task": name,
            "output_type": "generate_until",
            "description": "Be brief.",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{id}}",
            "generation_kwargs": {"until": [], "max_gen_toks": 8, "do_sample": False},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
        tasks[name] = {
            "file": f"{name}.yaml",
            "data": f"{name}.jsonl",
            "scorer": SCORERS[name],
            "metric": "pass@1" if name == "adds" else "acc",
            "higher_is_better": True,
            "min_items": 2,
            "slices": ["kind"] if name == "manners" else [],
        }
    suite = {
        "description": "Scored by us.",
        "engine": "transformers",
        "dtype": "bfloat16",
        "apply_chat_template": True,
        "batch_size": 2,
        "seed": 0,
        "max_length": 256,
        "tasks": tasks,
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    return folder


def test_scorers_give_the_items_their_scores_and_notes(tiny_llama: Path, tmp_path: Path) -> None:
    suite = _write_suite(tmp_path / "own")
    config = ScoringConfig(
        name="tiny",
        weight_digest="a" * 64,
        template_sha256=template_sha256(tiny_llama),
        suite_name="own",
        suite_sha256=suite_digest(suite),
        code_digest="b" * 64,
        engine="transformers",
    )
    record = score(config, tiny_llama, suite, tmp_path / "out").record
    found = {task.task: (task.metric, task.items, task.value) for task in record.tasks}
    assert found == {"adds": ("pass@1", 2, 0.0), "manners": ("acc", 2, 0.0)}
    items = read_items(tmp_path / "out" / "items.parquet")
    assert [(item.task, item.metric, item.score) for item in items] == [
        ("adds", "pass@1", 0.0),
        ("adds", "pass@1", 0.0),
        ("manners", "acc", 0.0),
        ("manners", "acc", 0.0),
    ]
    assert all(item.note for item in items)
    assert {item.note for item in items if item.task == "manners"} <= {
        "did not refuse",
        "said nothing",
    }
    assert all("system\nBe brief." in item.prompt for item in items)
