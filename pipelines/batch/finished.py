"""A finished job as its output holds it: plan, manifest, and shards that are what it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.layout import MANIFEST
from pipelines.batch.manifest import load_manifest
from pipelines.batch.records import BatchManifest, JobPlan, ShardEntry
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.taking_up import load_plan
from pipelines.canonical import sha256_bytes
from pipelines.errors import JobNotFinished, OutputDamaged
from pipelines.parquet import read_parquet


class Finished(NamedTuple):
    """A finished job, and where it lies."""

    store: OutputStore
    plan: JobPlan
    manifest: BatchManifest

    def shards(self) -> Iterator[tuple[ShardEntry, bytes]]:
        """Every shard in order; raises OutputDamaged for one that is not as the manifest says."""
        return checked_shards(self.store, self.manifest)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row in order, as a shard holds it."""
        for _, data in self.shards():
            yield from read_parquet(data).to_pylist()

    def columns(self, names: set[str] | None) -> dict[str, list[Any]]:
        """Whole columns in memory: those of `names` that there are, or all of them."""
        tables = []
        for _, data in self.shards():
            file = pq.ParquetFile(pa.BufferReader(data))
            there = file.schema_arrow.names
            tables.append(
                file.read(
                    columns=[n for n in there if names is None or n in names], use_threads=False
                )
            )
        found: dict[str, list[Any]] = pa.concat_tables(tables).to_pydict()
        return found


def checked_shards(
    store: OutputStore, manifest: BatchManifest
) -> Iterator[tuple[ShardEntry, bytes]]:
    """Every shard of a manifest in order; OutputDamaged for one that is not as it says."""
    for entry in manifest.shards:
        data = store.read(entry.name)
        if data is None:
            raise OutputDamaged(store.location, entry.name, "in the manifest, and not there")
        if (actual := sha256_bytes(data)) != entry.sha256:
            fact = f"the manifest says {entry.sha256}, its bytes are {actual}"
            raise OutputDamaged(store.location, entry.name, fact)
        yield entry, data


def finished_job(output: str) -> Finished:
    """Read a finished job; raises JobNotFinished where there is none."""
    store = open_store(output)
    plan, manifest = load_plan(store), load_manifest(store)
    if plan is None or manifest is None:
        raise JobNotFinished(output, f"there is no {MANIFEST}: the job is not done")
    return Finished(store, plan, manifest)
