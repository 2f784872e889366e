"""Commits beside the engine: a thread writes shards while the engine goes on."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.redaction import Redactor
from pipelines.batch.shard import OpenShard

_WAITING = 2  # shards kept in memory for a slow store before the engine has to wait


class Committer:
    """One thread, so that commits keep their order; its errors come up in the worker."""

    def __init__(self, schema: OutputSchema, hide: Redactor) -> None:
        self._schema, self._hide = schema, hide
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._commits: deque[Future[bool]] = deque()
        self.won = self.lost = 0

    def commit(self, shard: OpenShard) -> None:
        """Commit a complete shard soon; waits while too many are under way."""
        self._commits.append(self._thread.submit(shard.commit, self._schema, self._hide))
        while len(self._commits) > _WAITING:
            self._take()

    def check(self) -> None:
        """Take note of commits that ended; raises what they raised."""
        while self._commits and self._commits[0].done():
            self._take()

    def finish(self) -> None:
        """Wait for all commits; raises what they raised."""
        while self._commits:
            self._take()

    def close(self) -> None:
        """End the thread, after the commit that it is in."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> None:
        won = self._commits.popleft().result()
        self.won += won
        self.lost += not won
