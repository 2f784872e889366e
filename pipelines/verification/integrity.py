"""A folder against a pinned manifest: missing, extra, changed and renamed files, one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from pipelines.digest import FileEntry
from pipelines.errors import ConfigError, MalformedFile, WrongKindOfPath
from pipelines.records import Finding
from pipelines.verification.findings import quoted, refusal
from pipelines.verification.strict_json import parse_strict

_SUM_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?P<path>.+)")
_REMEDY = "Restore the file that the manifest names, or ask its publisher for a new manifest."
UNKNOWN_SIZE = -1


def read_manifest(path: Path) -> tuple[FileEntry, ...]:
    """Entries of a manifest: JSON with a list `files`, or lines as sha256sum writes them.

    Sizes are UNKNOWN_SIZE where lines do not state them. Raises WrongKindOfPath when there is no
    file and ConfigError when it has neither form, is empty, or names a file twice.
    """
    if not path.is_file():
        raise WrongKindOfPath(path, "a manifest (JSON, or sha256sum lines)")
    data = path.read_bytes()
    entries = _from_json(path, data) if data.lstrip()[:1] == b"{" else _from_lines(path, data)
    names = [entry.path for entry in entries]
    if not names or len(set(names)) != len(names):
        raise ConfigError(path, "it names no file, or one file twice", _REMEDY)
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise ConfigError(path, f"{quoted(name)} is not a path within a folder", _REMEDY)
    return entries


def _from_json(path: Path, data: bytes) -> tuple[FileEntry, ...]:
    try:
        document: Any = parse_strict(data, path.name)
        files = document["files"]
        wanted = ("path", "size_bytes", "sha256")
        return tuple(FileEntry(**{key: file[key] for key in wanted}) for file in files)
    except MalformedFile as error:
        raise ConfigError(path, error.fact, _REMEDY) from error
    except (KeyError, TypeError, ValidationError) as error:
        fact = 'it is not {"files": [{"path", "size_bytes", "sha256"}]}'
        raise ConfigError(path, fact, _REMEDY) from error


def _from_lines(path: Path, data: bytes) -> tuple[FileEntry, ...]:
    entries = []
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"it is not UTF-8 ({error})", _REMEDY) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            fact = f"line {number} is not 'SHA256  PATH'"
            raise ConfigError(path, fact, "Write it with sha256sum.")
        name = match["path"].removeprefix("./")
        entries.append(FileEntry(path=name, size_bytes=UNKNOWN_SIZE, sha256=match["sha256"]))
    return tuple(entries)


def compare(pinned: Iterable[FileEntry], actual: Iterable[FileEntry]) -> Iterator[Finding]:
    """One finding for each file that is missing, extra, changed or renamed."""
    wanted = {entry.path: entry for entry in pinned}
    found = {entry.path: entry for entry in actual}
    missing = {name: wanted[name] for name in sorted(wanted.keys() - found.keys())}
    extra = {name: found[name] for name in sorted(found.keys() - wanted.keys())}
    for old, new in _renamed(missing, extra):
        fact = f"the manifest names these bytes {quoted(old)}"
        yield refusal("integrity.renamed", new, fact, _REMEDY)
    for name in missing:
        yield refusal("integrity.missing", name, "the manifest names it, it is not here", _REMEDY)
    for name in extra:
        remedy = "Remove it; nothing that the manifest does not name may come along."
        yield refusal("integrity.extra", name, "the manifest does not name it", remedy)
    for name in sorted(wanted.keys() & found.keys()):
        pin, file = wanted[name], found[name]
        if pin.sha256 != file.sha256:
            fact = f"its sha256 is {file.sha256}, the manifest says {pin.sha256}"
            yield refusal("integrity.changed", name, fact, _REMEDY)
        elif pin.size_bytes not in (UNKNOWN_SIZE, file.size_bytes):
            fact = f"it has {file.size_bytes} bytes, the manifest says {pin.size_bytes}"
            yield refusal("integrity.changed", name, fact, _REMEDY)


def _renamed(missing: dict[str, FileEntry], extra: dict[str, FileEntry]) -> list[tuple[str, str]]:
    """Pairs of names with the same bytes; takes them out of `missing` and `extra`."""
    by_digest = {entry.sha256: name for name, entry in missing.items()}
    pairs = []
    for new in list(extra):
        old = by_digest.pop(extra[new].sha256, None)
        if old is not None:
            del missing[old], extra[new]
            pairs.append((old, new))
    return pairs
