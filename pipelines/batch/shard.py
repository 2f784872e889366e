"""An open shard: which of its rows are there, and its commit when all are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pipelines.batch.egress import note_redacted
from pipelines.batch.journal import ShardJournal
from pipelines.batch.layout import plan_name, shard_name
from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.records import JobPlan
from pipelines.batch.redaction import Redactor
from pipelines.batch.rows import PlannedRow, Row, answered_parquet, read_planned
from pipelines.batch.store import OutputStore
from pipelines.canonical import sha256_bytes
from pipelines.errors import OutputDamaged


class OpenShard:
    """Rows of one shard as they are completed, in any order; each counts once."""

    def __init__(self, plan: JobPlan, index: int, store: OutputStore, journal: Path) -> None:
        """Read the shard's plan and journals; OutputDamaged when the plan is not as recorded."""
        self.index = index
        self._plan, self._store = plan, store
        self._planned = read_plan(plan, index, store)
        self._journal = ShardJournal(journal, index)
        places = {row.row for row in self._planned}
        self._rows = {n: row for n, row in self._journal.read().items() if n in places}
        self.resumed = len(self._rows)

    def pending(self) -> Iterator[PlannedRow]:
        """Rows that are not there yet, in order."""
        return (row for row in self._planned if row.row not in self._rows)

    def add(self, row: Row) -> None:
        """Take a completed row into the journal."""
        if row.row not in self._rows:
            self._rows[row.row] = row
            self._journal.append(row)

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return len(self._rows) == len(self._planned)

    @cached_property
    def committed_elsewhere(self) -> bool:
        """Whether another worker committed the shard since it was read ahead; looked up once."""
        return self._store.exists(shard_name(self.index))

    def commit(self, output: OutputSchema, hide: Redactor) -> bool:
        """Commit all rows as one object, redacted; False when another worker was first.

        Either way the shard is there afterwards, so its journals go.
        """
        name, redacted = shard_name(self.index), Counter[str]()
        rows = [hide.row(row, redacted) for row in self._rows.values()]
        data = answered_parquet(rows, self._plan, output, hide.names)
        note_redacted(self._store, name, redacted)
        won = self._store.create(name, data)
        self._journal.remove()
        return won

    def close(self) -> None:
        """Leave the shard as it is, to be taken up from its journal."""
        self._journal.close()


def read_plan(plan: JobPlan, index: int, store: OutputStore) -> list[PlannedRow]:
    """The planned rows of a shard; OutputDamaged when they are not those recorded."""
    name, expected = plan_name(plan.job_id, index), plan.shards[index].sha256
    data = store.read(name)
    if data is None:
        raise OutputDamaged(store.location, name, "planned, and not there")
    if (actual := sha256_bytes(data)) != expected:
        raise OutputDamaged(store.location, name, f"planned as {expected}, now {actual}")
    return read_planned(data)
