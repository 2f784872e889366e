"""The journal: completed rows of shards that are not committed yet, so that a kill costs little.

Each process appends to a file of its own per shard, one JSON line a row, and reads all files of
the shard when it opens it. So nothing is ever appended behind a torn line, two workers never write
into one file, and a row that a dead worker finished counts for whoever takes its shard over.
A line is whole or it is not there: without its newline, or with anything but a row in it, it is
passed over, and the row is generated again.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from pydantic import ValidationError

from pipelines.batch.rows import Row

SYNC_ROWS = 64  # what a power failure may cost; a killed process loses none of these
SYNC_S = 1.0


class ShardJournal:
    """The journal of one open shard: rows that were there, and a file for those to come."""

    def __init__(self, folder: Path, shard: int) -> None:
        self._folder, self._prefix = folder, f"shard-{shard:06}."
        self._path = folder / f"{self._prefix}{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._file: int | None = None
        self._unsynced, self._synced_at = 0, time.monotonic()

    def read(self) -> dict[int, Row]:
        """Every whole row that any process wrote for this shard; the first one of each number."""
        rows: dict[int, Row] = {}
        for path in sorted(self._folder.glob(f"{self._prefix}*.jsonl")):
            for line in _lines(path):
                try:
                    row = Row.model_validate_json(line)
                except ValidationError:
                    continue
                rows.setdefault(row.row, row)
        return rows

    def append(self, row: Row) -> None:
        """Write one row; in the kernel's hands on return, on the disk within 64 rows or 1 s."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        _write_all(self._file, row.model_dump_json().encode() + b"\n")
        self._unsynced += 1
        now = time.monotonic()
        if self._unsynced >= SYNC_ROWS or now - self._synced_at >= SYNC_S:
            os.fsync(self._file)
            self._unsynced, self._synced_at = 0, now

    def close(self) -> None:
        """Close this process's file and leave it for the next one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Drop every file of this shard: it is committed, by whomever."""
        self.close()
        for path in self._folder.glob(f"{self._prefix}*.jsonl"):
            path.unlink(missing_ok=True)


def count_rows(folder: Path) -> int:
    """How many whole lines all journals hold (rows of committed shards are removed)."""
    return sum(1 for path in sorted(folder.glob("shard-*.jsonl")) for _ in _lines(path))


def _lines(path: Path) -> list[bytes]:
    """Whole lines; none when the file went away because its shard was committed."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return data.split(b"\n")[:-1]


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
