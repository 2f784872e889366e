"""Rows: as planned, as answered, and as Parquet."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.records import ErrorClass, JobPlan
from pipelines.canonical import Frozen


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One chunk of one document, in its place; with an error it never reaches the engine."""

    row: int
    document_id: str
    document_sha256: str
    path: bytes  # as the file system names it, relative to the corpus
    offset: int  # bytes
    chunk: int
    chunks: int
    start: int  # of the chunk within the document's text, in characters
    end: int
    prompt_tokens: int
    duplicate_of: str | None
    error_class: ErrorClass | None
    error_message: str | None

    @property
    def source(self) -> str:
        """The path as Python names it."""
        return os.fsdecode(self.path)


class Row(Frozen):
    """What became of a planned row. Either `error_class` is None, or the row has no `output`."""

    row: int
    document_id: str
    document_sha256: str
    chunk: int
    output: str | None = None  # canonical JSON that fits the schema; None without a schema
    raw_text: str = ""  # of the last attempt
    error_class: ErrorClass | None = None
    error_message: str | None = None
    finish_reason: str | None = None
    attempts: int = 0
    prompt_tokens: int = 0  # of the prompt, once
    completion_tokens: int = 0  # over all attempts
    cached_tokens: int = 0  # over all attempts
    engine: str = ""


PLANNED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("document_id", pa.string()),
        ("document_sha256", pa.string()),
        ("path", pa.binary()),
        ("offset", pa.int64()),
        ("chunk", pa.int32()),
        ("chunks", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("prompt_tokens", pa.int32()),
        ("duplicate_of", pa.string()),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
    ]
)

_NAMED = pa.dictionary(pa.int32(), pa.string())  # few values, many rows
_ANSWERED = [
    ("id", pa.string()),
    ("row", pa.int64()),
    ("document_id", pa.string()),
    ("document_sha256", pa.string()),
    ("chunk", pa.int32()),
    ("output", pa.string()),
    ("raw_text", pa.string()),
    ("error_class", pa.string()),
    ("error_message", pa.string()),
    ("finish_reason", pa.string()),
    ("attempts", pa.int32()),
    ("prompt_tokens", pa.int32()),
    ("completion_tokens", pa.int32()),
    ("cached_tokens", pa.int32()),
    ("engine", _NAMED),
    ("weight_digest", _NAMED),
    ("template_sha256", _NAMED),
    ("prompt_sha256", _NAMED),
]


def row_id(document_id: str, chunk: int) -> str:
    """The name of a row, unique in its job."""
    return f"{document_id}#{chunk}"


def planned_parquet(rows: Sequence[PlannedRow]) -> bytes:
    """A shard of the plan."""
    columns = {name: [getattr(row, name) for row in rows] for name in PLANNED_SCHEMA.names}
    return _bytes(pa.table(columns, schema=PLANNED_SCHEMA))


def read_planned(data: bytes) -> list[PlannedRow]:
    """The rows of a shard of the plan, in order."""
    table = pq.read_table(io.BytesIO(data), schema=PLANNED_SCHEMA)
    return [PlannedRow(**values) for values in table.to_pylist()]


def answered_schema(output: OutputSchema) -> pa.Schema:
    """Columns of a committed shard: fixed ones, then `output_NAME` for each flat field."""
    return pa.schema([*_ANSWERED, *((f"output_{c.name}", c.type) for c in output.columns)])


def answered_parquet(rows: Iterable[Row], plan: JobPlan, output: OutputSchema) -> bytes:
    """A shard's rows as they are committed; the file's metadata names job and weights."""
    ordered = sorted(rows, key=lambda row: row.row)
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in ordered] for name in Row.model_fields
    }
    columns["id"] = [row_id(row.document_id, row.chunk) for row in ordered]
    for name in ("weight_digest", "template_sha256", "prompt_sha256"):
        columns[name] = [getattr(plan, name)] * len(ordered)
    typed = [output.typed(row.output) for row in ordered]
    for position, column in enumerate(output.columns):
        columns[f"output_{column.name}"] = [values[position] for values in typed]
    schema = answered_schema(output).with_metadata(
        {"weighbridge.job_id": plan.job_id, "weighbridge.weight_digest": plan.weight_digest}
    )
    return _bytes(pa.table(columns, schema=schema))


def _bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
