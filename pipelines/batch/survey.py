"""Survey: one pass over the rows of a finished job, for its reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.batch.job import BatchJob
from pipelines.batch.output_schema import OutputSchema

SAMPLES = 20
_BINS = 10
_VALUES_COUNTED = 200  # different values of one column; what comes later is 'other values'
OTHER = "other values"


class Bin(NamedTuple):
    """How many rows lie from `first` to `last`, both included."""

    first: int
    last: int
    rows: int


@dataclass
class Survey:
    """What one pass over the rows finds; lengths in tokens."""

    prompt_lengths: Counter[int] = field(default_factory=Counter)
    answer_lengths: Counter[int] = field(default_factory=Counter)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def look(rows: Iterable[dict[str, Any]], total: int, labels: Sequence[str]) -> Survey:
    """Go over all rows once; memory does not grow with their number.

    `labels` names the typed columns whose values are counted: those with few values by schema.
    """
    survey = Survey()
    shown = {index * total // SAMPLES for index in range(SAMPLES)}
    for row in rows:
        if row["row"] in shown:
            survey.samples.append(row)
        if row["error_class"] is not None:
            example = f"{row['document_id']}: {row['error_message']}"
            survey.failures.setdefault(row["error_class"], example)
        if row["attempts"]:
            survey.prompt_lengths[row["prompt_tokens"]] += 1
            survey.answer_lengths[row["completion_tokens"]] += 1
        for name in labels if row.get("final", True) else ():  # not of chunks that are combined
            if (value := row[f"output_{name}"]) is not None:
                _count(survey.values.setdefault(name, Counter()), str(value))
    return survey


def labels(job: BatchJob) -> list[str]:
    """Typed columns that a schema gives a list of values, or two."""
    properties = (job.output_schema or {}).get("properties", {})
    columns = OutputSchema(job.output_schema).columns
    return [c.name for c in columns if "enum" in properties[c.name] or c.type == pa.bool_()]


def bins(lengths: Counter[int]) -> list[Bin]:
    """Ten bins of equal width over what there is; none where there is nothing."""
    if not lengths:
        return []
    low, width = min(lengths), (max(lengths) - min(lengths)) // _BINS + 1
    counts: Counter[int] = Counter()
    for length, count in lengths.items():
        counts[(length - low) // width] += count
    return [
        Bin(low + index * width, low + (index + 1) * width - 1, counts[index])
        for index in range(max(counts) + 1)
    ]


def _count(values: Counter[str], value: str) -> None:
    values[value if value in values or len(values) < _VALUES_COUNTED else OTHER] += 1
