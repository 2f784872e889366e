"""The rows in an engine, in a file that outlives the process: who was there when it died.

One slot of eight bytes per request in flight, in shared memory of the file: marking a row is a
store into memory, so it costs nothing beside a request, and what a killed process wrote is in the
kernel's hands. (A power failure may lose it. That kills every engine, and accuses none.)
"""

from __future__ import annotations

import mmap
import os
from array import array
from pathlib import Path

_SLOT = 8  # bytes of a signed 64-bit integer: the row's number plus one, 0 for none


class InFlight:
    """Marks rows as they enter and leave an engine; for one process at a time."""

    def __init__(self, path: Path, capacity: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.ftruncate(descriptor, capacity * _SLOT)
            self._map = mmap.mmap(descriptor, capacity * _SLOT)
        finally:
            os.close(descriptor)
        self._slots = memoryview(self._map).cast("q")
        self._free = list(range(capacity))
        self._places: dict[int, int] = {}

    def enter(self, row: int) -> None:
        """Before a row goes into the engine; it may be there already."""
        if row not in self._places:
            self._places[row] = self._free.pop()
        self._slots[self._places[row]] = row + 1

    def leave(self, row: int) -> None:
        """When the engine has answered."""
        place = self._places.pop(row)
        self._slots[place] = 0
        self._free.append(place)

    def close(self) -> None:
        """Leave the file as it is."""
        self._slots.release()
        self._map.close()


def rows_in(path: Path) -> frozenset[int]:
    """The rows that a file marks; none when the engine was never started."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return frozenset()
    slots = array("q")
    slots.frombytes(data[: len(data) // _SLOT * _SLOT])
    return frozenset(slot - 1 for slot in slots if slot > 0)
