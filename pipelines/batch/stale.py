"""Stale: which outputs hold rows that a revoked model wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.batch.job_index import find_outputs, indexed
from pipelines.batch.journal import count_rows
from pipelines.batch.layout import SHARDS, journal_folder
from pipelines.batch.manifest import load_manifest
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.taking_up import load_plan
from pipelines.canonical import Frozen
from pipelines.errors import ConfigError, OutputDamaged

WRITERS = ("weight_digest", "adapter_digest")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class StaleOutput(Frozen):
    """An output with rows that a revoked model, or a revoked adapter, wrote."""

    output: str
    name: str
    model: str = Field(description="the release that the job names")
    finished: bool
    rows: int = Field(description="committed rows that it wrote")
    rows_in_all: int
    rows_journaled: int = Field(description="written by it and not committed yet, on this machine")


def parse_digest(text: str) -> str:
    """A weight digest; raises ConfigError unless it is 64 lower-case hex digits."""
    if not _DIGEST.fullmatch(text):
        raise ConfigError(
            "--model-digest", f"{text!r} is no weight digest", "Give all 64 hex digits."
        )
    return text


def find_stale(home: Path | None, locations: Iterable[str], digest: str) -> list[StaleOutput]:
    """Outputs with rows of the weights or the adapter `digest`, each once.

    Looks at every job in the index of `home` and everything below `locations`. An indexed output
    that is gone is passed over. Raises what `find_outputs` and `stale_rows` raise.
    """
    outputs = {entry.output for entry in indexed(home)} if home is not None else set()
    for location in locations:
        outputs.update(find_outputs(location))
    found = (look_at(output, digest) for output in sorted(outputs))
    return [stale for stale in found if stale is not None]


def look_at(output: str, digest: str) -> StaleOutput | None:
    """What `digest` wrote in one output; None when it wrote nothing there."""
    store = open_store(output)
    plan = load_plan(store)
    if plan is None:
        return None
    manifest = load_manifest(store)
    if manifest is not None and not manifest.recalls:  # one model wrote it all
        wrote = digest in (manifest.weight_digest, manifest.adapter_digest)
        rows = sum(manifest.engines.values()) if wrote else 0
    else:
        names = [e.name for e in manifest.shards] if manifest else sorted(store.names(SHARDS))
        rows = sum(_written(store, name, digest) for name in names)
    planned_with_it = digest in (plan.weight_digest, plan.adapter_digest)
    journaled = 0
    if manifest is None and planned_with_it:
        journaled = count_rows(journal_folder(output, plan.job_id))
    if not rows and not (manifest is None and planned_with_it):
        return None
    return StaleOutput(
        output=output,
        name=plan.job.name,
        model=plan.job.model,
        finished=manifest is not None,
        rows=rows,
        rows_in_all=plan.rows,
        rows_journaled=journaled,
    )


def _written(store: OutputStore, name: str, digest: str) -> int:
    """How many rows of one shard an engine answered with the weights or adapter `digest`."""
    data = store.read(name)
    if data is None:
        raise OutputDamaged(store.location, name, "named by the manifest, and not there")
    file = pq.ParquetFile(pa.BufferReader(data))
    columns = ["engine", *(c for c in WRITERS if c in file.schema_arrow.names)]
    return sum(
        is_stale(row, digest) for row in file.read(columns=columns, use_threads=False).to_pylist()
    )


def is_stale(row: dict[str, object], digest: str) -> bool:
    """Whether an engine answered a committed row, or refused it, with `digest` loaded."""
    return bool(row["engine"]) and any(row.get(column) == digest for column in WRITERS)
