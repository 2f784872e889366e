"""The demo's corpus: the licence texts of the Python packages that are installed here.

A real question about real documents: what do the licences of the software we run ask of us? Every
installed distribution ships its licence; each text becomes one document.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path, PurePosixPath

from pipelines.canonical import write_bytes

DOCUMENTS = 200
MAX_SIZE_BYTES = 12_000  # the full GNU texts would be half of the corpus's tokens
_LICENCE = re.compile(r"(licen[cs]e|copying)", re.IGNORECASE)
_TEXT_SUFFIXES = ("", ".txt", ".md", ".rst")


def build_corpus(folder: Path) -> int:
    """Write up to DOCUMENTS licence texts into `folder`, one file each; returns how many.

    Deterministic for one set of installed packages. Files that are there are written again, so an
    interrupted run is completed by the next.
    """
    chosen = sorted(_licence_files().items())[:DOCUMENTS]
    for name, data in chosen:
        write_bytes(folder / f"{name}.txt", data)
    return len(chosen)


def _licence_files() -> dict[str, bytes]:
    """One licence text per installed distribution, by the distribution's name and version."""
    found: dict[str, bytes] = {}
    for distribution in metadata.distributions():
        name = f"{distribution.metadata['Name'].lower()}-{distribution.version}"
        for file in sorted(distribution.files or [], key=str):
            if not _is_licence(PurePosixPath(file)):
                continue
            path = Path(str(distribution.locate_file(file)))
            if path.is_file() and 0 < path.stat().st_size <= MAX_SIZE_BYTES:
                found.setdefault(name, path.read_bytes())
    return found


def _is_licence(path: PurePosixPath) -> bool:
    inside = any(part.endswith(".dist-info") for part in path.parts)
    named = _LICENCE.search(path.stem) is not None and path.suffix.lower() in _TEXT_SUFFIXES
    return inside and named
