"""What this machine knows of the objects in its DVC cache: their sha256, and where they came from.

DVC addresses bytes by md5; the identity of weights is made of sha256s. The ledger ties the two
together, so that bytes which were hashed once on their way in are linked later instead of being
read again. It is a memory, not an authority: a row counts only as long as the object is the very
file that was hashed (same inode, size and modification time), and a lost ledger costs a second
reading, never a wrong answer.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.errors import NoSpaceLeft

_SCHEMA = """
create table if not exists objects (
  sha256 text primary key, md5 text not null, size_bytes integer not null,
  inode integer not null, mtime_ns integer not null
) without rowid;
create table if not exists sources (
  key text primary key, sha256 text not null
) without rowid;
"""
_TIMEOUT_S = 60.0  # for other processes' transactions, which take milliseconds
_CHUNK = 500  # host parameters of one query


@dataclass(frozen=True, slots=True)
class Row:
    """One object; `inode` and `mtime_ns` are those of the file when it was hashed."""

    sha256: str
    md5: str
    size_bytes: int
    inode: int
    mtime_ns: int


class Ledger:
    """A SQLite file that any number of threads and processes may share."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        with self._full_disk_named():
            self._connection = sqlite3.connect(path, timeout=_TIMEOUT_S, check_same_thread=False)
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Give the file back; rows that were added are already on it."""
        self._connection.close()

    def add(self, rows: Sequence[Row], keys: Iterable[tuple[str, str]] = ()) -> None:
        """Remember objects, and for each source key the sha256 of the bytes that it named."""
        with self._lock, self._full_disk_named(), self._connection as connection:
            connection.executemany(
                "insert or replace into objects values (?, ?, ?, ?, ?)",
                [(r.sha256, r.md5, r.size_bytes, r.inode, r.mtime_ns) for r in rows],
            )
            connection.executemany("insert or replace into sources values (?, ?)", keys)

    def rows(self, sha256s: Iterable[str]) -> dict[str, Row]:
        """The rows of those sha256s that are known."""
        fields = "sha256, md5, size_bytes, inode, mtime_ns"
        query = f"select {fields} from objects where sha256 in"
        return {row[0]: Row(*row) for row in self._select(query, sha256s)}

    def by_md5(self, md5: str) -> list[Row]:
        """The rows whose object lies at the address `md5`."""
        query = "select sha256, md5, size_bytes, inode, mtime_ns from objects where md5 in"
        return [Row(*row) for row in self._select(query, [md5])]

    def sha256s(self, keys: Iterable[str]) -> dict[str, str]:
        """Source key to sha256, for those keys that are known."""
        found: Iterator[Any] = self._select("select key, sha256 from sources where key in", keys)
        return dict(found)

    def forget(self, sha256s: Iterable[str]) -> None:
        """Drop rows whose objects are gone or are other bytes now."""
        with self._lock, self._full_disk_named(), self._connection as connection:
            connection.executemany(
                "delete from objects where sha256 = ?", [(sha256,) for sha256 in sha256s]
            )

    def _select(self, query: str, values: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        waiting = iter(values)
        while chunk := list(islice(waiting, _CHUNK)):
            marks = ",".join("?" * len(chunk))
            with self._lock:
                found = self._connection.execute(f"{query} ({marks})", chunk).fetchall()
            yield from found

    @contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "disk is full" in str(error):
                raise NoSpaceLeft(self._path) from error
            raise
