"""Values between the process that tests and the process that is tested: plain data as JSON lines.

The tested process may send anything. What arrives is only ever built-in data (numbers, texts,
lists, tuples, sets, dictionaries), so that no object of its making, with an `__eq__` of its own,
takes part in a comparison. Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any

MAX_LINE_BYTES = 8 * 1024 * 1024
_EXACT_INT = 2**53
_NESTS: tuple[type[Collection[Any]], ...] = (list, tuple, set, frozenset)


class NoPlainValue(Exception):
    """A value, or a line, that is no plain data."""


class Line:
    """One end of a pair of pipes that carry JSON lines."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing
        self._rest = b""

    def send(self, value: Any) -> None:
        """Write one line; `value` is JSON-able."""
        data = memoryview(json.dumps(value).encode() + b"\n")
        while data:
            data = data[os.write(self.writing, data) :]

    def receive(self) -> Any:
        """The next line's value; raises EOFError at the end, NoPlainValue when it is no JSON."""
        parts = [self._rest]
        size = len(self._rest)
        while b"\n" not in parts[-1]:
            part = os.read(self.reading, 65536)
            if not part:
                raise EOFError
            parts.append(part)
            size += len(part)
            if size > MAX_LINE_BYTES:
                raise NoPlainValue(f"an answer of more than {MAX_LINE_BYTES} bytes")
        line, _, self._rest = b"".join(parts).partition(b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise NoPlainValue("a line that is no JSON") from error


def encode(value: Any) -> Any:
    """A value as JSON-able data that keeps its type; raises NoPlainValue for any other."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) < _EXACT_INT else ["int", hex(value)]
    if isinstance(value, float):
        return ["float", value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real.hex(), value.imag.hex()]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(inner)] for key, inner in value.items()]]
    for kind in _NESTS:
        if isinstance(value, kind):
            return [kind.__name__, [encode(inner) for inner in value]]
    if isinstance(value, (Iterator, type({}.keys()), type({}.values()), type({}.items()))):
        inners: Iterable[Any] = value
        return ["iterator", [encode(inner) for inner in inners]]
    raise NoPlainValue(f"a value of type {type(value).__name__}")


def decode(data: Any) -> Any:
    """The value that `encode` was given; raises NoPlainValue when the data are no such thing."""
    if data is None or isinstance(data, (bool, str, int)):
        return data
    try:
        match data:
            case ["int", str(text)]:
                return int(text, 16)
            case ["float", str(text)]:
                return float.fromhex(text)
            case ["complex", str(real), str(imaginary)]:
                return complex(float.fromhex(real), float.fromhex(imaginary))
            case ["bytes", str(text)]:
                return bytes.fromhex(text)
            case ["range", int(start), int(stop), int(step)]:
                return range(start, stop, step)
            case ["dict", list(pairs)]:
                return {decode(key): decode(inner) for key, inner in pairs}
            case ["iterator", list(inners)]:
                return iter([decode(inner) for inner in inners])
            case [str(name), list(inners)]:
                kinds = {kind.__name__: kind for kind in _NESTS}
                make: Any = kinds[name]
                return make(decode(inner) for inner in inners)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise NoPlainValue("data that stand for no value") from error
    raise NoPlainValue("data that stand for no value")
