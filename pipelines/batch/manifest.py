"""The manifest: every committed shard read back and counted; written last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.layout import MANIFEST, SHARDS, shard_name
from pipelines.batch.records import BatchManifest, JobPlan, ShardEntry, Tokens
from pipelines.batch.rows import FINAL, redaction_rules
from pipelines.batch.store import OutputStore
from pipelines.canonical import record_bytes, sha256_bytes
from pipelines.errors import JobNotFinished, OutputDamaged, TooManyErrors

_COUNTED = [
    "row",
    "document_id",
    "error_class",
    "error_message",
    "attempts",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "engine",
    "weight_digest",
    FINAL,
]


def missing_shards(plan: JobPlan, store: OutputStore) -> list[int]:
    """Shards that nobody has committed yet."""
    committed = set(store.names(SHARDS))
    return [i for i in range(len(plan.shards)) if shard_name(i) not in committed]


def load_manifest(store: OutputStore) -> BatchManifest | None:
    """The manifest of a finished job, if it is one."""
    data = store.read(MANIFEST)
    return None if data is None else BatchManifest.model_validate_json(data)


def count(plan: JobPlan, store: OutputStore, max_error_rate: float) -> BatchManifest:
    """The manifest of a job whose shards are all committed; not written yet.

    It says what the objects hold, not what workers said: each is read back and its rows are held
    against the plan. Raises JobNotFinished when a shard is missing, OutputDamaged when one does
    not hold the planned rows, and TooManyErrors when more rows failed than the job's limit.
    """
    if missing := missing_shards(plan, store):
        raise JobNotFinished(store.location, f"{len(missing)} shards are not committed")
    counts = Counts()
    entries = tuple(_read_back(plan, index, store, counts) for index in range(len(plan.shards)))
    if counts.errors.total() > max_error_rate * plan.rows:
        raise TooManyErrors(plan.job.name, counts.errors, plan.rows, counts.example)
    return assemble(plan, counts, entries)


def write_manifest(manifest: BatchManifest, store: OutputStore) -> None:
    """Close the job; raises OutputDamaged when it was closed with other rows."""
    if not store.create(MANIFEST, record_bytes(manifest)) and load_manifest(store) != manifest:
        raise OutputDamaged(store.location, MANIFEST, "does not describe the shards beside it")


@dataclass
class Counts:
    """Sums over all rows; `models` counts answered rows by the digest of who answered."""

    errors: Counter[str] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    documents_with_errors: int = 0
    last_failed: str | None = None
    example: str = ""

    redacted: set[str] | None = None

    def add(self, table: pa.Table) -> None:
        """Count one shard; rows of one document follow each other, across shards too.

        Where chunks are combined, the final row of a document has an error if any of it has one.
        """
        rules = redaction_rules(table)
        self.redacted = rules if self.redacted is None else self.redacted & rules
        for row in table.to_pylist():
            self.attempts += row["attempts"]
            self.prompt += row["attempts"] * row["prompt_tokens"]
            self.completion += row["completion_tokens"]
            self.cached += row["cached_tokens"]
            if row["engine"]:
                self.engines[row["engine"]] += 1
                self.models[row["weight_digest"]] += 1
            if row["error_class"] is not None:
                self.errors[row["error_class"]] += 1
                self.example = self.example or f"{row['document_id']}: {row['error_message']}"
                if row.get(FINAL, True):
                    self.documents_with_errors += row["document_id"] != self.last_failed
                    self.last_failed = row["document_id"]


def _read_back(plan: JobPlan, index: int, store: OutputStore, counts: Counts) -> ShardEntry:
    name, planned = shard_name(index), plan.shards[index]
    data = store.read(name)
    if data is None:
        raise JobNotFinished(store.location, f"{name} went away")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        metadata = file.schema_arrow.metadata or {}
        there = set(file.schema_arrow.names)
        table = file.read(columns=[name for name in _COUNTED if name in there], use_threads=False)
    except pa.ArrowException as error:
        raise OutputDamaged(store.location, name, f"not a shard ({error})") from error
    if metadata.get(b"weighbridge.job_id", b"").decode() != plan.job_id:
        raise OutputDamaged(store.location, name, "written by another job")
    if table.column("row").to_pylist() != list(range(planned.start, planned.stop)):
        fact = f"does not hold rows {planned.start} to {planned.stop - 1} once each"
        raise OutputDamaged(store.location, name, fact)
    counts.add(table)
    return ShardEntry(
        name=name, sha256=sha256_bytes(data), size_bytes=len(data), rows=table.num_rows
    )


def assemble(plan: JobPlan, counts: Counts, shards: tuple[ShardEntry, ...]) -> BatchManifest:
    """The manifest of a plan whose rows were counted and lie in `shards`."""
    job = plan.job
    return BatchManifest(
        job_id=plan.job_id,
        name=job.name,
        model=plan.model,
        weight_digest=plan.weight_digest,
        adapter_digest=plan.adapter_digest,
        template_sha256=plan.template_sha256,
        prompt=job.prompt,
        prompt_sha256=plan.prompt_sha256,
        schema_sha256=plan.identity["output schema"],
        sampling=job.sampling,
        max_model_len=plan.max_model_len,
        corpus_sha256=plan.identity["corpus"],
        classification=job.classification,
        redacted=tuple(sorted(counts.redacted or ())),
        engines=dict(sorted(counts.engines.items())),
        documents=plan.documents,
        documents_with_errors=counts.documents_with_errors,
        duplicate_documents=plan.duplicate_documents,
        cut_documents=plan.cut_documents,
        ignored_files=plan.ignored_files,
        rows=plan.rows,
        reduce=job.reduce,
        reduced_rows=plan.reduced_rows,
        rows_ok=plan.rows - counts.errors.total(),
        errors=dict(sorted(counts.errors.items())),
        attempts=counts.attempts,
        tokens=Tokens(prompt=counts.prompt, completion=counts.completion, cached=counts.cached),
        shards=shards,
    )
