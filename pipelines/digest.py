"""The weight digest: one identity for a set of weights, wherever it lies.

The canonical manifest is the JSON object ``{"files":[{"path","sha256","size_bytes"},…]}`` in
UTF-8, keys sorted, separators ``,`` and ``:``, no final newline, with every file under the folder
as one entry, paths relative with ``/``, in Unicode NFC, sorted by code point. The weight digest is
the sha256 of those bytes. Test vector: one file ``a.txt`` holding ``hello\\n`` gives the manifest

``{"files":[{"path":"a.txt","sha256":"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03","size_bytes":6}]}``

and the digest ``8e93ddd6391fb05423e98b54896b1aaf8f552fb2d5d515ce607e651897a8e577``.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines.canonical import Frozen, canonical_json, sha256_bytes, sha256_file
from pipelines.errors import DigestMismatch, WrongKindOfPath


class FileEntry(Frozen):
    """One file of a manifest; `path` is relative, NFC, with forward slashes."""

    path: str
    size_bytes: int
    sha256: str


def list_files(folder: Path) -> list[Path]:
    """Every regular file under `folder`, hidden ones too, sorted by relative path.

    Raises WrongKindOfPath when `folder` is not a folder, or holds a link or a special file: a
    digest over a link would speak of bytes that lie elsewhere.
    """
    return [Path(found) for found in files_by_name(folder).values()]


def files_by_name(folder: Path) -> dict[str, str]:
    """As `list_files`: the manifest's name of each file to its path, sorted by name."""
    if not folder.is_dir():
        raise WrongKindOfPath(folder, "a folder of weights")
    found: dict[str, str] = {}
    waiting = [(str(folder), "")]
    while waiting:
        root, prefix = waiting.pop()
        with os.scandir(root) as entries:
            for entry in entries:
                name = unicodedata.normalize("NFC", prefix + entry.name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{name}/"))
                elif not entry.is_file(follow_symlinks=False):
                    fact = "a regular file (links and devices are refused)"
                    raise WrongKindOfPath(Path(entry.path), fact)
                elif name in found:
                    fact = "a name that differs from its neighbours in normal form"
                    raise WrongKindOfPath(Path(entry.path), fact)
                else:
                    found[name] = entry.path
    return dict(sorted(found.items()))


def relative_name(folder: Path, path: Path) -> str:
    """The manifest's name of a file: relative to `folder`, forward slashes, NFC."""
    return unicodedata.normalize("NFC", path.relative_to(folder).as_posix())


def build_manifest(folder: Path, *, threads: int = 2) -> tuple[FileEntry, ...]:
    """Hash every file under `folder` (bytes are read once; hashing releases the GIL)."""
    paths = list_files(folder)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        digests = list(pool.map(sha256_file, paths))
    return tuple(
        FileEntry(path=relative_name(folder, p), size_bytes=p.stat().st_size, sha256=d)
        for p, d in zip(paths, digests, strict=True)
    )


def weight_digest(files: Iterable[FileEntry]) -> str:
    """sha256 of the canonical manifest, as 64 lower-case hex digits."""
    entries = [
        {"path": entry.path, "size_bytes": entry.size_bytes, "sha256": entry.sha256}
        for entry in sorted(files, key=lambda entry: entry.path)
    ]
    return sha256_bytes(canonical_json({"files": entries}))


def check_digest(folder: Path, expected: str) -> tuple[FileEntry, ...]:
    """Re-hash `folder` and return its manifest; raises DigestMismatch when it is other bytes."""
    files = build_manifest(folder)
    actual = weight_digest(files)
    if actual != expected:
        raise DigestMismatch(folder, expected, actual)
    return files
