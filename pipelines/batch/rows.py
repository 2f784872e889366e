"""Rows: as planned, as answered, and as Parquet."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict

from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.pooling import pooled_column, pooled_fields
from pipelines.batch.records import ErrorClass, JobPlan, Pooled
from pipelines.canonical import Frozen
from pipelines.parquet import read_parquet


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
    media_type: str = ""
    language: str | None = None  # ISO 639-1, when the job asks for it
    copy_of: int | None = None  # the row whose answer this one gets
    first_part: int | None = None  # of a row that combines others: the first of them
    parts: int | None = None  # and how many there are; they follow each other
    is_part: bool | None = None  # another row of the document combines this one

    @property
    def source(self) -> str:
        """The path as Python names it."""
        return os.fsdecode(self.path)


class Row(Frozen):
    """What became of a planned row. Either `error_class` is None, or the row has no `output`."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

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
    label: str | None = None  # classify: of the highest score
    duplicate_of: str | None = None  # the first document of the same content
    is_part: bool = False  # another row of the document combines this one
    answered_by: str | None = None  # id of the row whose answer this is a copy of
    vector: bytes | None = None  # little-endian float32; embed: the vector. classify: the scores


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
        ("media_type", pa.string()),
        ("language", pa.string()),
        ("copy_of", pa.int64()),
        ("first_part", pa.int64()),
        ("parts", pa.int32()),
        ("is_part", pa.bool_()),
    ]
)

REDACTED = b"weighbridge.redacted"  # in a shard's metadata
FINAL = "final"  # column of jobs that combine chunks: whether the row answers its document
REDUCED = -1  # the chunk of a row that combines all others; of those in between -2, -3, …
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
    ("duplicate_of", pa.string()),
    ("answered_by", pa.string()),
    ("engine", _NAMED),
    ("weight_digest", _NAMED),
    ("adapter_digest", _NAMED),
    ("template_sha256", _NAMED),
    ("prompt_sha256", _NAMED),
]


def redaction_rules(table: pa.Table) -> set[str]:
    """The rules that the rows of a shard were redacted by, from its metadata."""
    named = (table.schema.metadata or {}).get(REDACTED, b"").decode()
    return {rule for rule in named.split(",") if rule}


def row_id(document_id: str, chunk: int) -> str:
    """The name of a row, unique in its job."""
    return f"{document_id}#{chunk}"


def planned_parquet(rows: Sequence[PlannedRow]) -> bytes:
    """A shard of the plan."""
    columns = {name: [getattr(row, name) for row in rows] for name in PLANNED_SCHEMA.names}
    return parquet_bytes(pa.table(columns, schema=PLANNED_SCHEMA))


def read_planned(data: bytes) -> list[PlannedRow]:
    """The rows of a shard of the plan, in order."""
    table = read_parquet(data, schema=PLANNED_SCHEMA)
    return [PlannedRow(**values) for values in table.to_pylist()]


def answered_schema(
    output: OutputSchema, pooled: Pooled | None = None, *, reduces: bool = False
) -> pa.Schema:
    """Columns of a committed shard: fixed ones, then `output_NAME` for each flat field.

    Jobs that embed or classify have `vector`, or `label` and `scores`, instead of the last. Jobs
    that combine chunks (`reduces`) have `final` before them.
    """
    final = [(FINAL, pa.bool_())] if reduces else []
    typed = [(f"output_{column.name}", column.type) for column in output.columns]
    return pa.schema([*_ANSWERED, *final, *typed, *pooled_fields(pooled)])


def answered_parquet(
    rows: Iterable[Row], plan: JobPlan, output: OutputSchema, redacted: Sequence[str] = ()
) -> bytes:
    """A shard's rows as they are committed; the file's metadata names job and weights.

    `redacted` names the rules that the rows were redacted by.
    """
    ordered = sorted(rows, key=lambda row: row.row)
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in ordered] for name in Row.model_fields
    }
    columns["id"] = [row_id(row.document_id, row.chunk) for row in ordered]
    for name in ("weight_digest", "adapter_digest", "template_sha256", "prompt_sha256"):
        columns[name] = [getattr(plan, name)] * len(ordered)
    if reduces := bool(plan.reduce_sha256):
        columns[FINAL] = [not row.is_part for row in ordered]
        prompts = (plan.prompt_sha256, plan.reduce_sha256)
        columns["prompt_sha256"] = [prompts[row.chunk <= REDUCED] for row in ordered]
    typed = [output.typed(row.output) for row in ordered]
    for position, column in enumerate(output.columns):
        columns[f"output_{column.name}"] = [values[position] for values in typed]
    named = {
        "weighbridge.job_id": plan.job_id,
        "weighbridge.weight_digest": plan.weight_digest,
        REDACTED.decode(): ",".join(redacted),
    }
    if plan.pooled is not None:
        numbers = "vector" if plan.pooled.task == "embed" else "scores"
        columns[numbers] = pooled_column(plan.pooled, [row.vector for row in ordered])
        named["weighbridge.labels"] = json.dumps(plan.pooled.labels)
    schema = answered_schema(output, plan.pooled, reduces=reduces).with_metadata(named)
    return parquet_bytes(pa.table({name: columns[name] for name in schema.names}, schema=schema))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet object of an output."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
