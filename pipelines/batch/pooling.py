"""Pooling: models that give numbers instead of text, and the typed columns for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.batch.records import Pooled
from pipelines.batch.settings import Task
from pipelines.errors import ConfigError

_CLASSIFIER = "ForSequenceClassification"
FLOAT32 = np.dtype("<f4")


def pooled(task: Task, folder: Path) -> Pooled | None:
    """What a model's config.json says of its numbers; None for `generate`.

    A vector has as many dimensions as the hidden states. Raises ConfigError when the config does
    not say how many, or when it names no classification head and its labels.
    """
    if task == "generate":
        return None
    from pipelines.batch.tokens import read_config  # a tokenizer: not for who only reads rows

    config = read_config(folder)
    if task == "embed":
        size = (config.get("text_config") or config).get("hidden_size")
        if not isinstance(size, int):
            raise ConfigError("task", "the model's config.json has no hidden_size", "Use another.")
        return Pooled(task=task, dimensions=size)
    labels = _labels(config)
    return Pooled(task=task, dimensions=len(labels), labels=labels)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Labels in the order of their numbers."""
    named = config.get("id2label")
    architectures = config.get("architectures") or []
    if not any(_CLASSIFIER in str(name) for name in architectures):
        found = ", ".join(map(str, architectures)) or "none is named"
        raise ConfigError(
            "task",
            f"the model has no classification head (architecture: {found})",
            f"Use a model whose architecture ends in {_CLASSIFIER}, or generate with an enum.",
        )
    if not isinstance(named, dict) or sorted(named) != sorted(map(str, range(len(named)))):
        raise ConfigError("task", "the model's config.json numbers no labels (id2label)", "Add it.")
    return tuple(str(named[str(number)]) for number in range(len(named)))


def pack(numbers: Sequence[float] | Any) -> bytes:
    """Numbers (a list or an array of one dimension) as little-endian float32."""
    return np.asarray(numbers, dtype=FLOAT32).tobytes()


def is_finite(vector: bytes) -> bool:
    """Whether every number is one."""
    return bool(np.isfinite(np.frombuffer(vector, FLOAT32)).all())


def best_label(vector: bytes, labels: Sequence[str]) -> str:
    """The label with the highest score; the first of equals."""
    return labels[int(np.argmax(np.frombuffer(vector, FLOAT32)))]


def pooled_fields(pooled: Pooled | None) -> list[tuple[str, pa.DataType]]:
    """Columns of a pooling job: `vector`, or `label` and `scores` in the order of the labels."""
    if pooled is None:
        return []
    numbers = pa.list_(pa.float32(), pooled.dimensions)
    if pooled.task == "embed":
        return [("vector", numbers)]
    return [("label", pa.string()), ("scores", numbers)]


def pooled_column(pooled: Pooled, vectors: Sequence[bytes | None]) -> pa.Array:
    """A column of fixed-size lists of float32, null where a row has none."""
    empty = bytes(FLOAT32.itemsize * pooled.dimensions)
    data = b"".join(empty if vector is None else vector for vector in vectors)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.frombuffer(data, FLOAT32)),
        pooled.dimensions,
        mask=pa.array([vector is None for vector in vectors], pa.bool_()),
    )
