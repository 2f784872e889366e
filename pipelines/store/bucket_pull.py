"""From an S3 remote into this machine's cache: compared with its address while it comes.

DVC writes an object, reads it again to verify it, and takes two seconds to start. Here each byte is
touched once, large files go on where a kill left them, and two processes that want the same object
do not both fetch it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.canonical import write_bytes
from pipelines.errors import NoSpaceLeft, SourceChanged, is_disk_full
from pipelines.progress import Meter
from pipelines.store.bucket import STREAMS, bucket_location, members_of, object_path, read_object
from pipelines.store.bucket_errors import transient_in_body
from pipelines.store.integrity import locked_among
from pipelines.store.ledger import Row
from pipelines.store.objects import READ_ONLY, ObjectStore, require_space
from pipelines.store.receiving import Offer, Reader, Stated, receive
from pipelines.store.remote import OBJECTS, S3Remote, failures
from pipelines.store.resuming import ResumingReader
from pipelines.store.stopping import Stopped, ended_by

if TYPE_CHECKING:
    from botocore.response import StreamingBody


def fetch(tree: Path, home: Path, targets: Sequence[str]) -> bool:
    """Bring the objects of locked outputs of `tree` into the cache below `home`.

    `targets` are stage instances and paths of outputs. Returns True when the cache holds all of
    them, so that a checkout suffices. False leaves the rest to DVC: as for `push`, and where the
    bucket holds no such object or other bytes, which are not kept. Raises BucketMissing,
    KeysRefused, RemoteUnreachable, TransferCutOff or NoSpaceLeft; what came before is kept, also of
    files that came in part.
    """
    outputs = locked_among(tree, targets)
    location = bucket_location(tree, home)
    if location is None or not outputs:
        return False
    store = ObjectStore(home)
    try:
        with failures(location), _full_disk_named(home):
            return _Fetch(S3Remote(location), store).run(outputs)
    finally:
        store.ledger.close()


@contextmanager
def _full_disk_named(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise NoSpaceLeft(home) from error
        raise


class _Fetch:
    """One fetch; several files come at a time, each in one stream and hashed as it comes."""

    def __init__(self, remote: S3Remote, store: ObjectStore) -> None:
        self._remote, self._store = remote, store
        self._stop = threading.Event()

    def run(self, outputs: Mapping[str, int]) -> bool:
        """Whether all objects of these outputs are in the cache now."""
        objects = self._store.objects
        listings: dict[str, bytes] = {}
        missing: dict[str, None] = {}
        size = sum(outputs.values())
        for address in outputs:
            data = None
            if address.endswith(".dir"):
                data = read_object(objects, address) or self._remote.read(address) or b""
            members = members_of(address, data)
            if members is None:
                return False
            if data is not None:
                listings[address] = data
            for member in members:
                try:
                    size -= os.stat(object_path(objects, member)).st_size
                except FileNotFoundError:
                    missing[member] = None
        if missing and not self._bring(list(missing), max(0, size)):
            return False
        for address, data in listings.items():
            self._keep(address, data)
        return True

    def _bring(self, addresses: Sequence[str], total: int) -> bool:
        begun = sum(path.stat().st_size for path in self._store.incoming.iterdir())
        require_space(self._store.incoming, total - begun)
        meter = Meter(f"pull from {self._remote.location.url}", total)
        with ThreadPoolExecutor(STREAMS) as pool:
            futures = [pool.submit(self._one, address, meter) for address in addresses]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                rows = [f.result() for f in futures if not f.cancelled() and not f.exception()]
                self._store.ledger.add([row for row in rows if row is not None])
        return None not in rows

    def _one(self, address: str, meter: Meter) -> Row | None:
        """Bring one object; None when the bucket has none, or other bytes under its name."""

        def count(size: int) -> None:
            if self._stop.is_set():
                raise Stopped
            meter.add(size)

        with ended_by(self._stop):
            opened = self._remote.open(address)
            if opened is None:
                return None
            size, body = opened
            where = f"{self._remote.location.url} {OBJECTS}"
            offer = Offer(where, address, size, f"md5:{address}", Stated("md5", address))
            with closing(body):
                try:
                    return receive(self._store, offer, _Stream(self._remote, body).open_at, count)
                except SourceChanged:
                    return None

    def _keep(self, address: str, data: bytes) -> None:
        """Store a folder's listing, which DVC takes as the word that its files are here."""
        path = Path(object_path(self._store.objects, address))
        if not path.exists():
            write_bytes(path, data)
            path.chmod(READ_ONLY)


class _Stream:
    """An object's bytes: from the answer that told its size, or asked for again from an offset."""

    def __init__(self, remote: S3Remote, first: StreamingBody) -> None:
        self._remote = remote
        self._first: StreamingBody | None = first

    @contextmanager
    def open_at(self, offer: Offer, offset: int) -> Iterator[Reader]:
        """As `receive` wants it; a stream that breaks off is taken up where it stopped."""

        @contextmanager
        def open_from(start: int) -> Iterator[Reader]:
            body, self._first = self._first, None
            if start or body is None:
                opened = self._remote.open(offer.path, start)
                if opened is None:
                    raise SourceChanged(str(offer), "the object that was there", "nothing")
                body = opened[1]
            with closing(body):
                stream: Any = body  # its stubs do not know readinto's argument
                yield stream

        with ResumingReader(offer, offset, open_from, transient_in_body()) as reader:
            yield reader
