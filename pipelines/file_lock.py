"""One process at a time: a lock that the kernel gives back when its holder dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.progress import report

_POLL_S = 0.2


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; while another process holds it, wait and say so.

    flock(2) locks die with the process, so a killed holder never blocks the next one. The file
    stays: removing it would let two processes lock two files of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        started = time.monotonic()
        while not _try_lock(file.fileno()):
            report(time.monotonic() - started, 0, "s", f"waiting for another process: {what}")
            time.sleep(_POLL_S)
        yield


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` for the block if nobody does; says whether it is held by us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield _try_lock(file.fileno())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
