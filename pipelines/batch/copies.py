"""Copies: rows of duplicate documents, filled from the committed rows that they are copies of.

The planner puts copies behind all other rows, in shards of their own and in the order of their
originals. No engine is needed for them: once every other shard is committed, whoever closes the job
writes them by the same conditional create. What a copy says follows from committed rows alone, so
that a kill costs nothing and two writers write the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.batch.committed import CommittedRows
from pipelines.batch.layout import plan_name, shard_name
from pipelines.batch.records import JobPlan
from pipelines.batch.rows import PlannedRow, parquet_bytes, read_planned, row_id
from pipelines.batch.store import OutputStore
from pipelines.canonical import sha256_bytes
from pipelines.errors import OutputDamaged

_NOT_SPENT = ("attempts", "completion_tokens", "cached_tokens")


def fill_copies(plan: JobPlan, store: OutputStore) -> int:
    """Commit every shard of copies that is not there yet; how many this process committed.

    Does nothing while other shards are missing. Raises OutputDamaged when a plan or a committed
    shard is not what was recorded.
    """
    copies = range(plan.first_copy_shard, len(plan.shards))
    if not copies or not all(store.exists(shard_name(i)) for i in range(plan.first_copy_shard)):
        return 0
    originals = CommittedRows(plan, store)
    missing = [index for index in copies if not store.exists(shard_name(index))]
    return sum(store.create(shard_name(i), _filled(plan, i, store, originals)) for i in missing)


def _filled(plan: JobPlan, index: int, store: OutputStore, originals: CommittedRows) -> bytes:
    name, expected = plan_name(plan.job_id, index), plan.shards[index].sha256
    data = store.read(name)
    if data is None or sha256_bytes(data) != expected:
        raise OutputDamaged(store.location, name, f"planned as {expected}, and not that")
    planned = read_planned(data)
    table = originals.rows([row.copy_of for row in planned if row.copy_of is not None])
    answered_by = table.column("id").to_pylist()
    for column, values in _own(planned, answered_by).items():
        at = table.schema.get_field_index(column)
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array(values, field.type))
    return parquet_bytes(table)


def _own(planned: Sequence[PlannedRow], answered_by: list[str]) -> dict[str, list[Any]]:
    """What a copy has of its own."""
    return {
        "id": [row_id(row.document_id, row.chunk) for row in planned],
        "row": [row.row for row in planned],
        "document_id": [row.document_id for row in planned],
        "document_sha256": [row.document_sha256 for row in planned],
        "duplicate_of": [row.duplicate_of for row in planned],
        "answered_by": answered_by,
        **{name: [0] * len(planned) for name in _NOT_SPENT},
    }
