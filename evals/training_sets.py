"""The data sets that weights were tuned on: which they are, and their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.canonical import Frozen
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import DigestMismatch, UnusableEvidence, WrongKindOfPath
from pipelines.models_file import ModelsFile
from pipelines.records import TrainingRecord, read_record


class TrainingSet(Frozen):
    """A folder with JSON Lines of training data; `sha256` as the training record has it, or ''."""

    name: str
    folder: Path
    sha256: str = ""


def trained_on(registry: Path, models: ModelsFile, name: str) -> tuple[TrainingSet, ...]:
    """The data of every tuning between a publisher's weights and `name`, the last one first.

    The first is held to the digest in the model's own training record, which raises WrongKindOfPath
    when absent; the data of a base's tuning are what the registry holds of them now.
    """
    sets: list[TrainingSet] = []
    while (tuning := models.tunings.get(name)) is not None:
        # The record of the weights themselves is a dependency of this stage; a base's is not.
        record = registry / "evidence" / name / "origin" / "training.json"
        pinned = "" if sets else read_record(record, TrainingRecord).dataset_sha256
        folder = registry / "datasets" / tuning.dataset
        sets.append(TrainingSet(name=tuning.dataset, folder=folder, sha256=pinned))
        name = tuning.base
    return tuple(sets)


def check_training_sets(datasets: Sequence[TrainingSet]) -> None:
    """Hold each set against the digest that training recorded.

    Raises WrongKindOfPath when one is absent, DigestMismatch when it is not what was trained on.
    """
    for dataset in datasets:
        if not dataset.folder.is_dir():
            raise WrongKindOfPath(dataset.folder, "a folder with training data as JSON Lines")
        if dataset.sha256:
            actual = weight_digest(build_manifest(dataset.folder))
            if actual != dataset.sha256:
                raise DigestMismatch(dataset.folder, dataset.sha256, actual)


def texts_within(value: Any) -> Iterator[str]:
    """Every text within a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts_within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_within(inner)


def training_rows(dataset: TrainingSet) -> Iterator[list[str]]:
    """The texts of each row of each *.jsonl file; a set without rows is refused."""
    count = 0
    for path in sorted(dataset.folder.rglob("*.jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    where = f"{path}, line {number}"
                    fact = f"not JSON ({error})"
                    raise UnusableEvidence(where, fact, "Correct the line.") from error
                count += 1
                yield list(texts_within(row))
    if not count:
        raise UnusableEvidence(
            f"data set {dataset.name}", "it has no rows in *.jsonl", "Name the folder of its rows."
        )
