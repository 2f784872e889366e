"""From a source to the store: choose its files, bring them in side by side, say what they are.

A source lists what it offers and opens any file of it at any byte; all else is the same for every
source and stands here. What has arrived is written down under the reference, so that the same
reference is taken from the store afterwards, without asking its source again.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import ValidationError

from pipelines.canonical import Frozen, sha256_bytes, sha256_file, write_record
from pipelines.digest import FileEntry, weight_digest
from pipelines.progress import Meter
from pipelines.references import Reference
from pipelines.sources import duplicates, selection
from pipelines.sources.selection import Selection, check_names, require_weights, with_pickles
from pipelines.store.ledger import Row
from pipelines.store.objects import ObjectStore, StoredObject, require_space
from pipelines.store.receiving import SMALL_BYTES, Offer, Reader, known, receive
from pipelines.store.stopping import Stopped, ended_by

FOLLOWS_RULES = ("hf", "pypi", "ollama")  # the others are pinned by what was taken of them
_SMALL_BATCH = 500  # small files whose rows reach the ledger together


class Wanted(Frozen):
    """A reference, and which of its files are wanted.

    `include` and `exclude` are file name patterns as the Hub's client takes them (fnmatch, `*`
    matches `/` too). Licence texts and the publisher's papers come in any case.
    """

    reference: Reference
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    pickled: bool = False  # PyTorch pickles are taken where there is nothing else


class Source(Protocol):
    """What every source gives: its files, and their bytes from any offset on."""

    reference: Reference
    offers: Mapping[str, Offer]  # every file there is, by its path in the source
    streams: int  # how many files are worth reading at a time
    remote: bool  # whether opening a file waits for another machine

    def select(self, paths: Sequence[str]) -> Selection:
        """Sort those of the offered paths that the patterns leave."""

    def placed(self, path: str, selection: Selection) -> str:
        """The name of a model file within the model folder."""

    def open_at(self, offer: Offer, offset: int) -> AbstractContextManager[Reader]:
        """Open one file `offset` bytes in; raises SourceNotFound or SourceChanged."""


class ArrivedFile(Frozen):
    """One file that lies in the store; `path` is where it belongs in model or origin folder."""

    kind: Literal["model", "text"]
    path: str
    size_bytes: int
    sha256: str


class Arrival(Frozen):
    """Everything that one reference stands for, as it arrived."""

    files: tuple[ArrivedFile, ...]
    left_out: tuple[str, ...]

    def entries(self) -> tuple[FileEntry, ...]:
        """The model's files, as its manifest lists them."""
        return tuple(
            FileEntry(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in self.files
            if file.kind == "model"
        )

    def pin(self) -> str:
        """The weight digest of what was taken."""
        return weight_digest(self.entries())


def bring_in(source: Source, wanted: Wanted, store: ObjectStore) -> Arrival:
    """Bring the wanted files of a source into the store; each byte is read once.

    Raises UnusableSource for names and contents that cannot be taken, NoSpaceLeft before a
    transfer that cannot end, and what the transfers raise; files that came whole stay in the
    store and partial ones beside it, for the next try.
    """
    name = str(source.reference)
    check_names(name, source.offers)
    chosen = _filtered(source, wanted)
    if wanted.pickled:
        chosen = with_pickles(chosen)
    require_weights(name, chosen)
    texts = (*chosen.licences, *chosen.papers)
    offers = [source.offers[path] for path in (*chosen.model, *texts)]
    objects = receive_all(source, offers, store)
    placed = [(path, "model", source.placed(path, chosen)) for path in chosen.model]
    placed += [(path, "text", path) for path in texts]
    files = [
        {
            "kind": kind,
            "path": inner,
            "size_bytes": objects[source.offers[path].key].size_bytes,
            "sha256": objects[source.offers[path].key].sha256,
        }
        for path, kind, inner in placed
    ]
    return Arrival.model_validate({"files": files, "left_out": chosen.left_out})


def remember(arrival: Arrival, wanted: Wanted, store: ObjectStore) -> None:
    """Write down what a resolved reference stands for."""
    write_record(_record_path(wanted, store), arrival)


def recall(wanted: Wanted, store: ObjectStore) -> Arrival | None:
    """What arrived under this reference before, if all of it is still in the store."""
    path = _record_path(wanted, store)
    try:
        arrival = Arrival.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):  # none, or one of another version of this code
        return None
    sha256s = {file.sha256 for file in arrival.files}
    return arrival if len(store.find(sha256s)) == len(sha256s) else None


def place(arrival: Arrival, store: ObjectStore, model: Path) -> None:
    """Link the arrival's model files into the folder `model`."""
    files = [file for file in arrival.files if file.kind == "model"]
    objects = store.find({file.sha256 for file in files})
    for folder in {os.path.dirname(file.path) for file in files}:
        (model / folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        store.link(objects[file.sha256], f"{model}/{file.path}")


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new folder for the length of the block, at a fixed place that the caller has locked.

    What a killed process left there is removed first, so that nothing gathers in the cache.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass
class _Transfers:
    """All transfers of one source: the first that fails stops the others."""

    source: Source
    store: ObjectStore
    meter: Meter
    stop: threading.Event

    def one(self, offer: Offer) -> list[Row]:
        return [receive(self.store, offer, self.source.open_at, self._count)]

    def many(self, offers: Sequence[Offer]) -> list[Row]:
        """One after the other: for small local files, threads are in each other's way."""
        made: list[Row] = []
        for start in range(0, len(offers), _SMALL_BATCH):
            batch = offers[start : start + _SMALL_BATCH]
            rows: list[Row] = []
            try:
                with ended_by(self.stop):
                    for offer in batch:
                        rows += self.one(offer)
            finally:  # what came before a failure is kept
                keys = [offer.key for offer in batch]
                self.store.ledger.add(
                    rows, [(key, row.sha256) for key, row in zip(keys, rows, strict=False)]
                )
            made += rows
        return made

    def _count(self, count: int) -> None:
        if self.stop.is_set():
            raise Stopped
        self.meter.add(count)


def receive_all(
    source: Source, offers: Sequence[Offer], store: ObjectStore
) -> dict[str, StoredObject]:
    """Every offer's object, by key: found in the store, or brought in now; raises as `bring_in`."""
    unique = {offer.key: offer for offer in offers}
    objects = known(store, list(unique.values()))
    missing = [offer for key, offer in unique.items() if key not in objects]
    if not missing:
        return objects
    total = sum(offer.size_bytes for offer in missing)
    require_space(store.incoming, total - sum(f.stat().st_size for f in store.incoming.iterdir()))
    meter = Meter(f"bring in {source.reference}", total)
    transfers = _Transfers(source, store, meter, threading.Event())
    with ThreadPoolExecutor(max_workers=source.streams) as pool:
        futures = {pool.submit(transfers.many, batch): batch for batch in _batches(source, missing)}
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            _raise_first(futures)
        finally:
            transfers.stop.set()
            pool.shutdown(cancel_futures=True)
    for future, batch in futures.items():
        for offer, row in zip(batch, future.result(), strict=True):
            objects[offer.key] = StoredObject(row.sha256, row.md5, row.size_bytes)
    return objects


def _raise_first(futures: Mapping[Future[list[Row]], object]) -> None:
    """Raise what a transfer raised, rather than that it was stopped for another's sake."""
    errors = [error for f in futures if f.done() and (error := f.exception()) is not None]
    for error in errors:
        if not isinstance(error, Stopped):
            raise error


def _batches(source: Source, offers: Sequence[Offer]) -> list[list[Offer]]:
    """Large files each for itself, largest first; small ones spread over the streams."""
    large = sorted(
        (offer for offer in offers if offer.size_bytes > SMALL_BYTES),
        key=lambda offer: (-offer.size_bytes, offer.path),
    )
    small = [offer for offer in offers if offer.size_bytes <= SMALL_BYTES]
    ways = source.streams if source.remote else 1
    spread = [small[start::ways] for start in range(ways)]
    return [*([offer] for offer in large), *(batch for batch in spread if batch)]


def _filtered(source: Source, wanted: Wanted) -> Selection:
    """The source's selection among the files that the patterns leave, and all texts."""
    paths = list(source.offers)
    if not (wanted.include or wanted.exclude):
        return source.select(paths)
    # Before the rules about second copies: who asks for the copy must get it.
    everything = source.select(paths)
    texts = {*everything.licences, *everything.papers}
    unwanted = {path for path in paths if path not in texts and not _is_wanted(path, wanted)}
    kept = source.select([path for path in paths if path not in unwanted])
    return kept.model_copy(update={"left_out": tuple(sorted({*kept.left_out, *unwanted}))})


def _is_wanted(path: str, wanted: Wanted) -> bool:
    included = not wanted.include or _matches(path, wanted.include)
    return included and not _matches(path, wanted.exclude)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _record_path(wanted: Wanted, store: ObjectStore) -> Path:
    said = wanted.model_dump_json(exclude={"pickled"}) + ("pickled" if wanted.pickled else "")
    if wanted.reference.scheme in FOLLOWS_RULES:
        said += _rules()  # what is taken of these depends on the rules of the day
    key = sha256_bytes(said.encode())
    return store.home / "downloads" / "sources" / f"{key}.json"


@functools.cache
def _rules() -> str:
    """The digest of the modules that say which files are taken."""
    return "".join(sha256_file(Path(str(rules.__file__))) for rules in (selection, duplicates))
