"""Recall: replace the rows that a revoked model wrote, and only those, with a release's.

The rows are asked again as a job of their own under `recall/` in the same output, with the chunks
that were planned, so it may be killed, limited and cancelled as any job. When it is finished, each
shard that holds such rows is written once more under a new name, by conditional create: the rows
that stay as they are, the others replaced. The manifest comes last, in place of the old one, which
is kept under `superseded/` with the shards it names. Who reads the manifest sees the old rows or
the new ones, never a mixture that no manifest describes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch.egress import sending_store
from pipelines.batch.identity import job_id
from pipelines.batch.layout import CANCEL, MANIFEST, SUPERSEDED, WORKERS
from pipelines.batch.manifest import Counts, assemble, load_manifest
from pipelines.batch.recall_plan import Generation, RecallPlan, stale_rows
from pipelines.batch.records import BatchManifest, ModelOnDisk, Recall, ShardEntry
from pipelines.batch.rows import REDACTED, parquet_bytes, redaction_rules
from pipelines.batch.run import Crew, run_planned
from pipelines.batch.stale import look_at
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.taking_up import planned, planned_job
from pipelines.canonical import record_bytes, sha256_bytes
from pipelines.errors import ConfigError, JobNotFinished, ModelStillReleased, OutputDamaged
from pipelines.parquet import read_parquet


def rerun(output: str, digest: str, model: ModelOnDisk, crew: Crew | None = None) -> BatchManifest:
    """Replace every row in an output that the weights or the adapter `digest` wrote.

    A job that was never finished is finished by it: all of its rows are asked.
    Killed at any moment, the same call goes on. Raises ModelStillReleased when `model` is the
    revoked one, JobNotFinished when nothing was planned there, ConfigError for a job whose answers
    are vectors (those of two models cannot stand side by side) or rest on each other (chunks that
    are combined), and what `run_batch` raises.
    """
    plan, crew = planned(open_store(output)), crew or Crew()
    store = sending_store(plan.job.model_copy(update={"output": output}), crew.egress, plan.job_id)
    before = load_manifest(store)
    if digest in (model.weight_digest, model.adapter_digest):
        raise ModelStillReleased(output, model.name, digest)
    if plan.pooled is not None:
        raise ConfigError("task", plan.pooled.task, "Run the job anew into an empty output.")
    if plan.first_reduced_shards:
        fact = "answers that combine others cannot be replaced one by one"
        raise ConfigError("chunking.reduce", fact, "Run the job anew into an empty output.")
    if look_at(output, digest) is None:
        if before is None:
            raise JobNotFinished(output, f"{digest} has no part in it")
        return before
    recall = RecallPlan(plan, before, store, digest, model)
    part = recall.plan()
    answered = run_planned(planned_job(part, recall.location), model, part, crew)
    fresh = _Fresh(open_store(recall.location), answered)
    manifest = _merge(recall, fresh, answered.rows)
    _close(recall, manifest)
    return manifest


def _merge(recall: RecallPlan, fresh: _Fresh, replaced: int) -> BatchManifest:
    """Write the shards of the new generation and count what the output holds with them."""
    counts, entries = Counts(), []
    for index in range(len(recall.before_plan.shards)):
        entry, table = _merged(recall, index, fresh)
        counts.add(table)
        entries.append(entry)
    before, generation = recall.before, recall.generation
    plan = recall.before_plan.model_copy(update=recall.answered_by(generation.identity))
    done = Recall(
        revoked=recall.digest,
        rows=replaced,
        weight_digest=recall.model.weight_digest,
        adapter_digest=recall.model.adapter_digest,
        replaced_manifest_sha256=sha256_bytes(record_bytes(before)) if before else "",
    )
    return assemble(plan, counts, tuple(entries)).model_copy(
        update={
            "recalls": (*(before.recalls if before else ()), done),
            "rows_by_model": dict(sorted(counts.models.items())),
        }
    )


def _merged(recall: RecallPlan, index: int, fresh: _Fresh) -> tuple[ShardEntry, pa.Table]:
    """One shard as it is to be: the old object where nothing is replaced, else a new one."""
    name, data = recall.current(index)
    planned_shard = recall.before_plan.shards[index]
    if data is None:
        numbers, kept = list(range(planned_shard.start, planned_shard.stop)), None
    else:
        old = read_parquet(data)
        mask = stale_rows(old, recall.digest)
        numbers = old.filter(mask).column("row").to_pylist()
        kept = old.filter([not stale for stale in mask])
    if numbers:
        taken = fresh.take(len(numbers))
        place = taken.schema.get_field_index("row")
        taken = taken.set_column(place, taken.schema.field(place), pa.array(numbers, pa.int64()))
        parts = [taken] if kept is None else [kept, taken]
        name = recall.generation.shard_name(index)
        recall.store.create(name, _shard_bytes(parts, recall.generation))
        data = recall.store.read(name)  # of this run or of one before: the same rows
    if data is None:
        raise OutputDamaged(recall.store.location, name, "written, and not there")
    table = read_parquet(data)
    if table.column("row").to_pylist() != list(range(planned_shard.start, planned_shard.stop)):
        raise OutputDamaged(recall.store.location, name, "does not hold the planned rows once each")
    entry = ShardEntry(
        name=name, sha256=sha256_bytes(data), size_bytes=len(data), rows=table.num_rows
    )
    return entry, table


def _shard_bytes(parts: list[pa.Table], generation: Generation) -> bytes:
    """Tables of one schema as one shard in row order; its metadata names the new job."""
    schema = parts[-1].schema
    table = pa.concat_tables([part.cast(schema) for part in parts])
    table = table.take(pc.sort_indices(table.column("row")))
    rules = set.intersection(*(redaction_rules(part) for part in parts))
    named = {
        **(schema.metadata or {}),
        b"weighbridge.job_id": job_id(generation.identity).encode(),
        REDACTED: ",".join(sorted(rules)).encode(),
    }
    return parquet_bytes(table.replace_schema_metadata(named))


def _close(recall: RecallPlan, manifest: BatchManifest) -> None:
    """Keep the old manifest under its digest, put the new one in its place, and tidy up."""
    from pipelines.batch.report import write_report

    store = recall.store
    if recall.before is not None:
        old = record_bytes(recall.before)
        store.create(f"{SUPERSEDED}manifest-{sha256_bytes(old)[:16]}.json", old)
    write_report(recall.before_plan, manifest, store)
    store.replace(MANIFEST, record_bytes(manifest))
    for prefix in (recall.generation.prefix, WORKERS, CANCEL):
        for name in list(store.names(prefix)):
            store.delete(name)
    store.tidy()


class _Fresh:
    """The replaced rows in order, a shard in memory at a time."""

    def __init__(self, store: OutputStore, manifest: BatchManifest) -> None:
        self._tables = self._read(store, manifest)
        self._rest: pa.Table | None = None

    def take(self, rows: int) -> pa.Table:
        """The next `rows` rows."""
        parts: list[pa.Table] = []
        while rows:
            if self._rest is None or not self._rest.num_rows:
                self._rest = next(self._tables)
            parts.append(self._rest.slice(0, rows))
            self._rest = self._rest.slice(rows)
            rows -= parts[-1].num_rows
        return pa.concat_tables(parts).unify_dictionaries().combine_chunks()

    @staticmethod
    def _read(store: OutputStore, manifest: BatchManifest) -> Iterator[pa.Table]:
        for entry in manifest.shards:
            data = store.read(entry.name)
            if data is None or sha256_bytes(data) != entry.sha256:
                fact = f"not the bytes {entry.sha256} that its manifest names"
                raise OutputDamaged(store.location, entry.name, fact)
            yield read_parquet(data)
