"""Bytes on their way in: read once, hashed, written, and kept for the next try when cut off.

A large file grows under `incoming/`, named by its key, and becomes an object when all of it has
come and is what the source stated. A killed process leaves the partial file; the next one hashes
what is there and asks the source for the rest. Small files are read whole: starting them again
costs nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipelines.canonical import sha256_bytes
from pipelines.errors import SourceChanged, TransferCutOff
from pipelines.store.ledger import Row
from pipelines.store.objects import READ_ONLY, ObjectStore, StoredObject

SMALL_BYTES = 1024 * 1024
_BLOCK_BYTES = 256 * 1024  # all of a file's blocks fit into a core's cache; others were slower
_BUFFERS = 4  # per file under way


class Hasher(Protocol):
    """What hashlib's objects do."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""


class Reader(Protocol):
    """A stream that fills a buffer; returns 0 at its end."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read up to len(buffer) bytes into it."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A digest that the source states of a file, in hexadecimal, and how to compute it.

    `algorithm` is 'sha256' or 'md5', which are computed anyway, or any other name together with
    `hasher`, which makes a new hasher for a file of this size.
    """

    algorithm: str
    value: str
    hasher: Callable[[], Hasher] | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """One file that a source offers.

    `source` is the reference, for messages; `path` is the file's name there. `key` names these very
    bytes at their source, so that it is another one after any change there (a commit and a path; a
    version id; an inode with its times): partial files and the ledger go by it.
    """

    source: str
    path: str
    size_bytes: int
    key: str
    stated: Stated | None = None

    def __str__(self) -> str:
        return f"{self.source} {self.path}"


OpenAt = Callable[[Offer, int], AbstractContextManager[Reader]]
OnBytes = Callable[[int], None]


def git_blob_sha1(value: str, size_bytes: int) -> Stated:
    """A git blob id: sha1 over ``blob SIZE\\0`` and the bytes."""

    def hasher() -> Hasher:
        return hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)

    return Stated("git blob sha1", value, hasher)


def known(store: ObjectStore, offers: Sequence[Offer]) -> dict[str, StoredObject]:
    """What the store holds already of these offers, by key: nothing has to come for them."""
    stated = {
        offer.key: offer.stated.value
        for offer in offers
        if offer.stated is not None and offer.stated.algorithm == "sha256"
    }
    there = store.find(set(stated.values()))
    found = {key: there[sha256] for key, sha256 in stated.items() if sha256 in there}
    return found | store.find_by_key(offer.key for offer in offers if offer.key not in found)


def receive(store: ObjectStore, offer: Offer, open_at: OpenAt, on_bytes: OnBytes) -> Row:
    """Bring one offer into the store; the caller adds the row to the ledger.

    `open_at(offer, offset)` opens the source `offset` bytes into the file; `on_bytes` hears of
    each part that came (and of a negative one when what came before had to be dropped). Raises
    TransferCutOff when the stream ends early (what came is kept), SourceChanged when the bytes are
    not what the source stated, and what `open_at` and its stream raise.
    """
    if offer.size_bytes <= SMALL_BYTES:
        return _receive_small(store, offer, open_at, on_bytes)
    partial = store.incoming / f"{sha256_bytes(offer.key.encode())}.part"
    with _only_holder(partial) as descriptor:
        if there := known(store, [offer]):  # whoever held it before us brought it in
            partial.unlink()
            on_bytes(offer.size_bytes)
            return store.ledger.rows([there[offer.key].sha256])[there[offer.key].sha256]
        transfer = _Transfer(offer, open_at, descriptor, on_bytes)
        stored = transfer.resume()
        os.fchmod(descriptor, READ_ONLY)
        row = store.adopt(str(partial), stored)
        store.ledger.add([row], [(offer.key, row.sha256)])
        return row


def _receive_small(store: ObjectStore, offer: Offer, open_at: OpenAt, on_bytes: OnBytes) -> Row:
    data = bytearray(offer.size_bytes + 1)  # one more, to see a file that grew
    view, size = memoryview(data), 0
    with open_at(offer, 0) as stream:
        while size < len(data) and (count := stream.readinto(view[size:])):
            size += count
    digests = _Digests(offer)
    digests.update(view[:size])
    digests.md5.update(view[:size])
    stored = digests.stored(size)
    on_bytes(size)
    temporary = f"{store.incoming}/{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, READ_ONLY)
    try:
        try:
            _write_all(descriptor, view[:size])
        finally:
            os.close(descriptor)
        return store.adopt(temporary, stored)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def _only_holder(partial: Path) -> Iterator[int]:
    """Open the partial file, locked: another process that brings it in is waited for."""
    while True:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(partial, descriptor):  # else its holder made it an object meanwhile
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


class _Digests:
    """The digests of one file; md5 is apart because it is the slowest and gets its own thread."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self.sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)
        stated = offer.stated
        self._other = stated.hasher() if stated is not None and stated.hasher else None

    def update(self, block: memoryview) -> None:
        """Take more bytes into all but md5."""
        self.sha256.update(block)
        if self._other is not None:
            self._other.update(block)

    def stored(self, size: int) -> StoredObject:
        """Both names of the bytes; raises TransferCutOff or SourceChanged."""
        offer, stated = self._offer, self._offer.stated
        if size < offer.size_bytes:
            raise TransferCutOff(str(offer), size, offer.size_bytes)
        if size > offer.size_bytes:
            fact = f"more than {offer.size_bytes} bytes"
            raise SourceChanged(str(offer), f"{offer.size_bytes} bytes", fact)
        found = StoredObject(self.sha256.hexdigest(), self.md5.hexdigest(), size)
        if stated is not None:
            own = {"sha256": found.sha256, "md5": found.md5}.get(stated.algorithm)
            actual = self._other.hexdigest() if self._other is not None else own
            if actual != stated.value:
                name = stated.algorithm
                raise SourceChanged(str(offer), f"{name} {stated.value}", f"{name} {actual}")
        return found


class _Transfer:
    """One large file under way into its partial file, which the caller has locked."""

    def __init__(self, offer: Offer, open_at: OpenAt, descriptor: int, on_bytes: OnBytes) -> None:
        self._offer, self._open_at = offer, open_at
        self._descriptor, self._on_bytes = descriptor, on_bytes

    def resume(self) -> StoredObject:
        """Bring the rest; a partial file that turns out damaged is dropped and begun anew once."""
        had = os.fstat(self._descriptor).st_size
        try:
            return self._run()
        except SourceChanged:
            self._drop()
            if not had:
                raise
        try:
            return self._run()
        except SourceChanged:
            self._drop()
            raise

    def _drop(self) -> None:
        self._on_bytes(-os.fstat(self._descriptor).st_size)
        os.ftruncate(self._descriptor, 0)

    def _run(self) -> StoredObject:
        digests = _Digests(self._offer)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        with _Pipe(digests) as pipe:
            size = self._drain(Plain(self._descriptor), pipe, keep=False)
            if size < self._offer.size_bytes:
                with self._open_at(self._offer, size) as stream:
                    size += self._drain(stream, pipe, keep=True)
        return digests.stored(size)

    def _drain(self, stream: Reader, pipe: _Pipe, *, keep: bool) -> int:
        """Hash what the stream holds, and append it to the partial file when `keep`."""
        size = 0
        while True:
            buffer = pipe.buffer()
            count = stream.readinto(buffer)
            if not count:
                return size
            if keep:
                _write_all(self._descriptor, buffer[:count])
            pipe.hash(buffer, count)
            size += count
            self._on_bytes(count)


class Plain:
    """A file descriptor as a stream."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readinto(self, buffer: memoryview, /) -> int:
        """Read up to len(buffer) bytes into it."""
        return os.readv(self._descriptor, [buffer])


class _Pipe:
    """Hashes blocks in two threads: md5 costs twice what sha256 does, and both release the GIL."""

    def __init__(self, digests: _Digests) -> None:
        self._digests = digests
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(memoryview(bytearray(_BLOCK_BYTES)))
        self._thread = threading.Thread(target=self._hash_md5, daemon=True)

    def __enter__(self) -> _Pipe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    def buffer(self) -> memoryview:
        """A buffer that nobody reads any more."""
        return self._free.get()

    def hash(self, buffer: memoryview, count: int) -> None:
        """Hash the buffer's first `count` bytes; it is free again when both threads are done."""
        self._waiting.put((buffer, count))
        self._digests.update(buffer[:count])

    def _hash_md5(self) -> None:
        while (item := self._waiting.get()) is not None:
            buffer, count = item
            self._digests.md5.update(buffer[:count])
            self._free.put(buffer)


def _write_all(descriptor: int, block: memoryview) -> None:
    written = 0
    while written < len(block):
        written += os.write(descriptor, block[written:])
