"""Export: the rows of a finished job as JSON lines, held against its manifest on the way."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.batch.layout import MANIFEST
from pipelines.batch.manifest import load_manifest
from pipelines.batch.records import BatchManifest
from pipelines.batch.store import OutputStore, open_store
from pipelines.canonical import atomic_path, sha256_bytes
from pipelines.errors import JobNotFinished, OutputDamaged


def export_jsonl(output: str, target: Path) -> int:
    """Write one JSON object per row to `target`, in job order; the number of rows.

    `output` is parsed (null where there is none), and the typed columns are left out as they say
    the same. Raises JobNotFinished without a manifest, and OutputDamaged when a shard is missing
    or is not the bytes that the manifest names; `target` is then not written.
    """
    store = open_store(output)
    manifest = load_manifest(store)
    if manifest is None:
        raise JobNotFinished(output, f"there is no {MANIFEST}: the job is not done")
    count = 0
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in finished_rows(store, manifest):
            file.write(json.dumps(_plain(row), ensure_ascii=False) + "\n")
            count += 1
    return count


def finished_rows(store: OutputStore, manifest: BatchManifest) -> Iterator[dict[str, Any]]:
    """Every row of a finished job in order, each shard checked before it is read."""
    for index in range(len(manifest.shards)):
        yield from _checked(store, manifest, index)


def _checked(store: OutputStore, manifest: BatchManifest, index: int) -> list[dict[str, Any]]:
    entry = manifest.shards[index]
    data = store.read(entry.name)
    if data is None:
        raise OutputDamaged(store.location, entry.name, "in the manifest, and not there")
    if (actual := sha256_bytes(data)) != entry.sha256:
        fact = f"the manifest says {entry.sha256}, its bytes are {actual}"
        raise OutputDamaged(store.location, entry.name, fact)
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
    return rows


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    output = row["output"]
    kept = {key: value for key, value in row.items() if not key.startswith("output_")}
    return {**kept, "output": None if output is None else json.loads(output)}
