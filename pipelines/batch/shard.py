"""An open shard: which of its rows are there, and its commit when all are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.batch.journal import ShardJournal
from pipelines.batch.layout import plan_name, shard_name
from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.records import JobPlan
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
        self._planned = _read_plan(plan, index, store)
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

    def commit(self, output: OutputSchema) -> bool:
        """Commit all rows as one object; False when another worker was first.

        Either way the shard is there afterwards, so its journals go.
        """
        data = answered_parquet(self._rows.values(), self._plan, output)
        won = self._store.create(shard_name(self.index), data)
        self._journal.remove()
        return won

    def close(self) -> None:
        """Leave the shard as it is, to be taken up from its journal."""
        self._journal.close()


def _read_plan(plan: JobPlan, index: int, store: OutputStore) -> list[PlannedRow]:
    name, expected = plan_name(plan.job_id, index), plan.shards[index].sha256
    data = store.read(name)
    if data is None:
        raise OutputDamaged(store.location, name, "planned, and not there")
    if (actual := sha256_bytes(data)) != expected:
        raise OutputDamaged(store.location, name, f"planned as {expected}, now {actual}")
    return read_planned(data)
