"""How one failed transfer ends the others, also those that wait to be let in again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Stopped(Exception):
    """Another transfer failed, so that this one need not go on."""


_stop: ContextVar[threading.Event | None] = ContextVar("weighbridge_stop", default=None)


@contextmanager
def ended_by(stop: threading.Event) -> Iterator[None]:
    """Let `stop` end whatever this thread waits for within the block."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


def sleep(seconds: float) -> None:
    """Wait; raises Stopped at once when the transfers of this source are to end."""
    stop = _stop.get()
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Stopped
