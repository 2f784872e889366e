"""What lm-eval's results_*.json say about the samples that lie beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UnusableEvidence

AGAIN = "Run lm-eval again with --log_samples."


@dataclass(frozen=True)
class Said:
    """What is stated of one task: directions of its metrics, document counts, its version."""

    higher_is_better: Mapping[str, Any]
    counts: frozenset[int]
    version: str


class RunResults:
    """All results_*.json below a folder of samples; there may be none."""

    def __init__(self, folder: Path) -> None:
        self.files = {path: _read(path) for path in sorted(folder.rglob("results_*.json"))}
        models = {str(c["model_name"]) for c in self.files.values() if c.get("model_name")}
        if len(models) > 1:
            fact = f"results of {len(models)} models: {', '.join(sorted(models))}"
            raise UnusableEvidence(str(folder), fact, "Keep one model's files in one folder.")

    def check_tasks(self, tasks: Iterable[str]) -> None:
        """Refuse a folder that lacks the samples of a task which a run counted."""
        there = set(tasks)
        for path, content in self.files.items():
            if missing := sorted(set(_map(content, "n-samples")) - there):
                fact = f"it counts items of {missing[0]}, and there is no file of samples for it"
                raise UnusableEvidence(str(path), fact, AGAIN)

    def about(self, task: str, time: str) -> Said:
        """What the run of `time` says of a task, or any run where none has that time."""
        chosen = [c for path, c in self.files.items() if time and time in path.name]
        contents = chosen or list(self.files.values())
        directions: dict[str, Any] = {}
        for content in contents:
            directions |= _map(_map(content, "higher_is_better"), task)
            _check_values(task, _map(_map(content, "results"), task))
        counts = (_map(_map(c, "n-samples"), task).get("effective") for c in contents)
        versions = {str(v) for c in contents if (v := _map(c, "versions").get(task)) is not None}
        return Said(
            higher_is_better=directions,
            counts=frozenset(count for count in counts if isinstance(count, int)),
            version=", ".join(f"version {version}" for version in sorted(versions)),
        )


def check_counts(about: str, said: Said, groups: Mapping[str, Sequence[int]]) -> None:
    """Refuse samples that are not all: `groups` maps a filter to its documents' ids."""
    documents = {doc for group in groups.values() for doc in group}
    if not documents:
        raise UnusableEvidence(about, "there are no items", AGAIN)
    for name, group in groups.items():
        if absent := len(documents - set(group)):
            fact = f"the filter {name} lacks {absent} of {len(documents)} documents"
            raise UnusableEvidence(about, fact, AGAIN)
    if said.counts and len(documents) not in said.counts:
        counted = ", ".join(map(str, sorted(said.counts)))
        fact = f"{len(documents)} documents, and results_*.json counts {counted}"
        raise UnusableEvidence(about, fact, AGAIN)


def _check_values(task: str, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        # A standard error may be NaN on one item; the value of a metric never.
        if "_stderr" not in key and isinstance(value, float) and not math.isfinite(value):
            remedy = "Check the weights for NaN, and evaluate again."
            raise UnusableEvidence(f"results of {task}", f"{key} is {value}", remedy)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnusableEvidence(str(path), f"not JSON ({error})", AGAIN) from error
    if not isinstance(content, dict):
        raise UnusableEvidence(str(path), "it holds no JSON object", AGAIN)
    return content


def _map(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A map within a results file; absent or anything else says nothing."""
    found = content.get(key)
    return found if isinstance(found, dict) else {}
