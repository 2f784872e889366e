"""A source that fails for a while: asked again, and a file from the byte that was reached."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from pipelines.canonical import READ_SIZE_BYTES
from pipelines.errors import TransferCutOff
from pipelines.store.receiving import Offer, Reader
from pipelines.store.stopping import sleep

Result = TypeVar("Result")
OpenFrom = Callable[[int], AbstractContextManager[Reader]]
Transient = tuple[type[Exception], ...]

_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.5  # doubled after each attempt: about 15 s in all, a server's restart
_FRUITFUL_BYTES = 1024 * 1024  # an attempt that brought this much does not count as a failure


class BrokeOff(Exception):
    """One attempt failed in a way that the next one may not; the text says how."""


def persist(action: Callable[[], Result], transient: Transient) -> Result:
    """The result of `action`, tried again while it raises BrokeOff or one of `transient`.

    Raises what the last attempt raised.
    """
    passing: Transient = (BrokeOff, *transient)
    for failures in range(1, _ATTEMPTS):
        try:
            return action()
        except passing:
            _pause(failures)
    return action()


def describe(error: Exception) -> str:
    """One line for what made an attempt fail."""
    said = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, BrokeOff):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def discard(stream: Reader, count: int) -> None:
    """Read past bytes that are here already, from a server that begins every file at its start."""
    buffer = memoryview(bytearray(min(count, READ_SIZE_BYTES)))
    while count:
        came = stream.readinto(buffer[: min(count, len(buffer))])
        if not came:
            raise BrokeOff("the stream ended before the byte that was asked for")
        count -= came


class ResumingReader:
    """One file's stream, opened again where it stopped, a bounded number of times.

    `open_from(offset)` opens the source `offset` bytes into the file. It and its stream raise
    BrokeOff or one of `transient` for what may pass; all else goes through. Raises TransferCutOff
    when several attempts in a row brought next to nothing.
    """

    def __init__(
        self, offer: Offer, offset: int, open_from: OpenFrom, transient: Transient
    ) -> None:
        self._offer, self._open_from = offer, open_from
        self._transient: Transient = (BrokeOff, *transient)
        self._at, self._opened_at, self._failures = offset, offset, 0
        self._opened = ExitStack()
        self._stream: Reader | None = None

    def __enter__(self) -> ResumingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer from the stream, or from the next one that can be had; 0 at the end."""
        while True:
            count = 0
            failure: Exception = BrokeOff("the stream ended early")
            try:
                count = self._read(buffer)
            except self._transient as error:
                failure = error
            self._at += count
            if count or self._at >= self._offer.size_bytes:
                return count
            self._break_off(failure)

    def _read(self, buffer: memoryview) -> int:
        if self._stream is None:
            self._opened_at = self._at
            self._stream = self._opened.enter_context(self._open_from(self._at))
        return self._stream.readinto(buffer) or 0

    def _break_off(self, failure: Exception) -> None:
        """Close what is open and wait; raises TransferCutOff when it failed often enough."""
        self._opened.close()
        self._stream = None
        fruitful = self._at - self._opened_at >= _FRUITFUL_BYTES
        self._failures = 1 if fruitful else self._failures + 1
        if self._failures >= _ATTEMPTS:
            size = self._offer.size_bytes
            raise TransferCutOff(str(self._offer), self._at, size, describe(failure)) from failure
        _pause(self._failures)


def _pause(failures: int) -> None:
    """Longer after each failure, and not the same for all who failed together."""
    sleep(_FIRST_PAUSE_S * 2 ** (failures - 1) * random.uniform(0.75, 1.25))
