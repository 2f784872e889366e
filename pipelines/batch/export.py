"""Export: the rows of a finished job as JSON lines, CSV or OpenAI batch results.

The rows are held against the manifest on the way.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from pipelines.batch.finished import checked_shards
from pipelines.batch.layout import MANIFEST
from pipelines.batch.manifest import load_manifest
from pipelines.batch.openai_results import OpenAiResults
from pipelines.batch.records import BatchManifest
from pipelines.batch.rows import FINAL
from pipelines.batch.store import OutputStore, open_store
from pipelines.canonical import atomic_path
from pipelines.errors import ConfigError, JobNotFinished
from pipelines.parquet import read_parquet

Format = Literal["jsonl", "csv", "openai"]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would act on (OWASP)


def export(
    output: str, target: Path, form: Format | None = None, *, documents: bool = False
) -> int:
    """Write the rows of a finished job to `target`, in job order; the number of rows.

    Without a format the suffix of `target` tells it. With `documents` only the final row of each
    document: chunks whose answers were combined are left out. Raises ConfigError when documents
    have several rows and none of them is final, JobNotFinished without a manifest, and
    OutputDamaged when a shard is missing or is not the bytes that the manifest names; `target` is
    then not written.
    """
    store = open_store(output)
    manifest = load_manifest(store)
    if manifest is None:
        raise JobNotFinished(output, f"there is no {MANIFEST}: the job is not done")
    if documents and manifest.reduce is None and manifest.rows != manifest.documents:
        fact = "documents of this job have several rows, and no row combines them"
        raise ConfigError("--documents", fact, "Leave it out, or run a job with chunking.reduce.")
    rows = finished_rows(store, manifest)
    if documents:
        rows = (row for row in rows if row.get(FINAL, True))
    write = _writers(store, manifest)[form or ("csv" if target.suffix == ".csv" else "jsonl")]
    with (
        atomic_path(target) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        return write(rows, file)


def export_jsonl(output: str, target: Path) -> int:
    """`export` as JSON lines.

    `output` is parsed (null where there is none), and the typed columns are left out as they say
    the same.
    """
    return export(output, target, "jsonl")


def finished_rows(store: OutputStore, manifest: BatchManifest) -> Iterator[dict[str, Any]]:
    """Every row of a finished job in order, each shard checked before it is read."""
    for _, data in checked_shards(store, manifest):
        yield from read_parquet(data).to_pylist()


def _writers(
    store: OutputStore, manifest: BatchManifest
) -> Mapping[Format, Callable[[Iterable[dict[str, Any]], TextIO], int]]:
    def openai(rows: Iterable[dict[str, Any]], file: TextIO) -> int:
        results = OpenAiResults(store, manifest)
        return _write_lines((results.line(row) for row in rows), file)

    def jsonl(rows: Iterable[dict[str, Any]], file: TextIO) -> int:
        return _write_lines(map(_plain, rows), file)

    return {"jsonl": jsonl, "csv": _write_csv, "openai": openai}


def _write_lines(values: Iterable[dict[str, Any]], file: TextIO) -> int:
    count = 0
    for value in values:
        file.write(json.dumps(value, ensure_ascii=False) + "\n")
        count += 1
    return count


def _write_csv(rows: Iterable[dict[str, Any]], file: TextIO) -> int:
    """RFC 4180; text that a spreadsheet would take for a formula begins with an apostrophe."""
    writer = csv.writer(file)
    count = 0
    for row in rows:
        if not count:
            writer.writerow(_cell(name) for name in row)
        writer.writerow(map(_cell, row.values()))
        count += 1
    return count


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    output = row["output"]
    kept = {key: value for key, value in row.items() if not key.startswith("output_")}
    return {**kept, "output": None if output is None else json.loads(output)}
