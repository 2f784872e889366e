"""Committed rows by their numbers, for rows that follow from them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import pyarrow as pa

from pipelines.batch.layout import shard_name
from pipelines.batch.records import JobPlan
from pipelines.batch.store import OutputStore
from pipelines.errors import JobNotFinished, OutputDamaged
from pipelines.parquet import read_parquet


class CommittedRows:
    """Rows of committed shards; one shard is in memory at a time, so numbers had better rise."""

    def __init__(
        self, plan: JobPlan, store: OutputStore, columns: Sequence[str] | None = None
    ) -> None:
        """`columns` None takes all of them."""
        self._plan, self._store = plan, store
        self._columns = None if columns is None else list(columns)
        self._starts = [shard.start for shard in plan.shards]
        self._index, self._table = -1, pa.table({})

    def rows(self, numbers: Sequence[int]) -> pa.Table:
        """The rows with these numbers, which rise.

        Raises JobNotFinished when a shard is not committed, OutputDamaged when it is not a shard.
        """
        parts, at = [], 0
        while at < len(numbers):
            index = bisect_right(self._starts, numbers[at]) - 1
            start, stop = self._starts[index], self._plan.shards[index].stop
            end = at
            while end < len(numbers) and numbers[end] < stop:
                end += 1
            parts.append(self._read(index).take([number - start for number in numbers[at:end]]))
            at = end
        return pa.concat_tables(parts)

    def _read(self, index: int) -> pa.Table:
        if index != self._index:
            name = shard_name(index)
            data = self._store.read(name)
            if data is None:
                raise JobNotFinished(self._store.location, f"{name} is not there")
            try:
                self._table = read_parquet(data, columns=self._columns)
            except pa.ArrowException as error:
                raise OutputDamaged(self._store.location, name, f"not a shard ({error})") from error
            self._index = index
        return self._table
