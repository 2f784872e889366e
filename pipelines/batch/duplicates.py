"""Ids and contents that came before, and rows that wait for another's answer, all on the disk."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipelines.batch.rows import PlannedRow
from pipelines.canonical import sha256_bytes

_INSERT = "INSERT INTO seen VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_CACHE_KIB = 8192  # of each database; the rest is the operating system's to cache


class Seen:
    """Keys that came before, each with the id of the document that had it first."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # '': a file that is not named
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("BEGIN")
        self._database.execute(
            "CREATE TABLE seen (key BLOB PRIMARY KEY, at INTEGER, id TEXT) WITHOUT ROWID"
        )
        self._count = 0

    def firsts(self, keys: Sequence[bytes | None], ids: Sequence[str | None]) -> list[int | None]:
        """For each key the number of the first that was like it; None for a new one, or for None.

        All at once, as a question for each would cost more than all the rest of a plan.
        """
        first = self._count
        self._count += len(keys)
        given = [(k, first + i, ids[i]) for i, k in enumerate(keys) if k is not None]
        before = self._database.total_changes
        self._database.executemany(
            "INSERT INTO seen VALUES (?, ?, ?) ON CONFLICT DO NOTHING", given
        )
        if self._database.total_changes - before == len(given):
            return [None] * len(keys)
        found: list[int | None] = []
        for at, key in enumerate(keys, first):
            earlier = at if key is None else self._at(key)
            found.append(None if earlier == at else earlier)
        return found

    def id_of(self, key: bytes) -> str:
        """The id that came with a key when it was new."""
        found = self._database.execute("SELECT id FROM seen WHERE key = ?", (key,)).fetchone()
        return str(found[0])

    def close(self) -> None:
        """Drop the file."""
        self._database.close()

    def _at(self, key: bytes) -> int:
        found = self._database.execute("SELECT at FROM seen WHERE key = ?", (key,)).fetchone()
        return int(found[0])


class Copies:
    """Rows that get the answer of an earlier row: kept until all others have their numbers."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("BEGIN")
        self._database.execute("CREATE TABLE originals (key BLOB PRIMARY KEY, row INTEGER)")
        self._database.execute("CREATE TABLE copies (key BLOB, row BLOB, begins INTEGER)")
        self._database.execute("CREATE TABLE combined (key BLOB, row INTEGER, planned BLOB)")

    def note(self, key: bytes, row: int) -> None:
        """The first row of the document that all others of this content are copies of."""
        self._database.execute("INSERT INTO originals VALUES (?, ?)", (key, row))

    def keep(self, key: bytes, row: PlannedRow) -> None:
        """A row that is a copy; its number does not matter yet."""
        copy = (key, pickle.dumps(row), row.chunk == 0)
        self._database.execute("INSERT INTO copies VALUES (?, ?, ?)", copy)

    def combined(self, key: bytes, row: PlannedRow) -> None:
        """A row that combines chunks of a document noted before: its copies have one each."""
        kept = (key, row.row, pickle.dumps(row))
        self._database.execute("INSERT INTO combined VALUES (?, ?, ?)", kept)

    def rows(self, number: int) -> Iterator[PlannedRow]:
        """All copies, numbered from `number` on, in the order of their originals."""
        found = self._database.execute(
            "SELECT originals.row, copies.row FROM copies JOIN originals USING (key) "
            "ORDER BY originals.row, copies.rowid"
        )
        for at, (original, pickled) in enumerate(found, number):
            row: PlannedRow = pickle.loads(pickled)  # our own, of this process
            yield replace(row, row=at, copy_of=original + row.chunk)
            number = at + 1
        yield from self._of_combined(number)

    def _of_combined(self, number: int) -> Iterator[PlannedRow]:
        self._database.execute("CREATE INDEX combined_key ON combined (key)")
        found = self._database.execute(
            "SELECT combined.row, combined.planned, copies.row FROM copies JOIN combined "
            "USING (key) WHERE copies.begins ORDER BY combined.row, copies.rowid"
        )
        for at, (original, combined, copy) in enumerate(found, number):
            row: PlannedRow = pickle.loads(combined)
            whose: PlannedRow = pickle.loads(copy)
            yield replace(
                row,
                row=at,
                copy_of=original,
                document_id=whose.document_id,
                document_sha256=whose.document_sha256,
                path=whose.path,
                offset=whose.offset,
                duplicate_of=whose.duplicate_of,
                first_part=None,
                parts=None,
            )

    def close(self) -> None:
        """Drop the file."""
        self._database.close()


def id_key(identity: str) -> bytes:
    """What tells ids apart."""
    return bytes.fromhex(sha256_bytes(identity.encode())[:32])
