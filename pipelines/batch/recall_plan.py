"""The plan of a recall: which rows of an output have to be asked again, as a job of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.batch.identity import job_id, question_identity
from pipelines.batch.layout import JOB, RECALL, SHARDS, plan_name, shard_name
from pipelines.batch.records import BatchManifest, JobPlan, ModelOnDisk, PlannedShard
from pipelines.batch.rows import PlannedRow, planned_parquet
from pipelines.batch.shard import read_plan
from pipelines.batch.stale import WRITERS, is_stale
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.taking_up import load_plan, planned, planned_job
from pipelines.batch.tokens import context_length
from pipelines.canonical import record_bytes, sha256_bytes
from pipelines.errors import ConfigError
from pipelines.parquet import read_parquet


@dataclass(frozen=True)
class Generation:
    """What a recall's objects are called, by what it replaces and who answers instead."""

    identity: dict[str, str]  # of the output once the rows are replaced
    part_identity: dict[str, str]  # of the job that answers them

    @property
    def name(self) -> str:
        """Id of the job that answers the rows."""
        return job_id(self.part_identity)

    @property
    def prefix(self) -> str:
        """Where that job lies in the output."""
        return f"{RECALL}{self.name[:16]}/"

    def shard_name(self, index: int) -> str:
        """The object with a shard's rows, once they are replaced."""
        return f"{SHARDS}shard-{index:06}.{self.name[:16]}.parquet"


class RecallPlan:
    """One output, one revoked digest, and the model that takes its place."""

    def __init__(
        self,
        plan: JobPlan,
        before: BatchManifest | None,
        store: OutputStore,
        digest: str,
        model: ModelOnDisk,
    ) -> None:
        self.before_plan, self.before, self.store = plan, before, store
        self.digest, self.model = digest, model
        length = plan.job.engine.max_model_len or context_length(model.weights)
        if length is None:
            fact = f"{model.name} does not say its context length"
            raise ConfigError("engine.max_model_len", fact, "Give one in a new job.")
        self._length = length
        question = question_identity(planned_job(plan, store.location), model, length)
        identity = {**plan.identity, **question}
        base = sha256_bytes(record_bytes(before)) if before else plan.job_id
        self.generation = Generation(identity, {**identity, "recall": f"{digest} in {base}"})

    @property
    def location(self) -> str:
        """Where the job that answers the rows has its output."""
        return f"{self.store.location.rstrip('/')}/{self.generation.prefix.rstrip('/')}"

    def plan(self) -> JobPlan:
        """The job that answers the rows, as it was planned by whoever was first."""
        location, part = self.location, open_store(self.location)
        if (there := load_plan(part)) is not None:
            return there
        errors: Counter[str] = Counter()
        rows = tokens = 0
        shards = []
        for index, batch in enumerate(self._shards(errors)):
            data = planned_parquet(batch)
            part.replace(plan_name(self.generation.name, index), data)
            stop = rows + len(batch)
            shards.append(PlannedShard(start=rows, stop=stop, sha256=sha256_bytes(data)))
            rows, tokens = stop, tokens + sum(row.prompt_tokens for row in batch)
        made = self.before_plan.model_copy(
            update={
                **self.answered_by(self.generation.part_identity),
                "job": planned_job(self.before_plan, location),
                "rows": rows,
                "prompt_tokens": tokens,
                "planned_errors": dict(errors),
                "shards": tuple(shards),
                "first_copy_shard": len(shards),  # copies too are asked again
            }
        )
        part.create(JOB, record_bytes(made))
        return planned(part)

    def answered_by(self, identity: dict[str, str]) -> dict[str, object]:
        """The parts of a plan that say who answers, for the new model."""
        return {
            "job_id": job_id(identity),
            "identity": identity,
            "model": self.model.name,
            "weight_digest": self.model.weight_digest,
            "template_sha256": self.model.template_sha256,
            "adapter_digest": self.model.adapter_digest,
            "prompt_form": "chat" if self.model.template_sha256 else "text",
            "max_model_len": self._length,
        }

    def current(self, index: int) -> tuple[str, bytes | None]:
        """The object that holds a shard's rows and its bytes.

        Of an unfinished job nothing counts as there: an old worker may still be adding to it.
        """
        if self.before is None:
            return shard_name(index), None
        name = self.before.shards[index].name
        return name, self.store.read(name)

    def _shards(self, errors: Counter[str]) -> Iterator[list[PlannedRow]]:
        """The rows to ask again, numbered anew, in shards of the usual size."""
        batch: list[PlannedRow] = []
        for number, row in enumerate(self._to_replace()):
            if row.error_class is not None:
                errors[row.error_class] += 1
            batch.append(replace(row, row=number, copy_of=None))
            if len(batch) == self.before_plan.job.shard_rows:
                yield batch
                batch = []
        if batch:
            yield batch

    def _to_replace(self) -> Iterator[PlannedRow]:
        for index in range(len(self.before_plan.shards)):
            rows = read_plan(self.before_plan, index, self.store)
            _, data = self.current(index)
            if data is None:
                yield from rows
                continue
            stale = stale_rows(read_parquet(data), self.digest)
            yield from (row for row, again in zip(rows, stale, strict=True) if again)


def stale_rows(table: pa.Table, digest: str) -> list[bool]:
    """For each row of a committed shard, whether `digest` answered it."""
    columns = ["engine", *(name for name in WRITERS if name in table.column_names)]
    return [is_stale(row, digest) for row in table.select(columns).to_pylist()]
