"""What every source does with the files it found: choose, check, and copy while hashing.

What is taken into the model folder is an allow-list: weights in a format that cannot hold code,
and the configuration and tokenizer files that belong to them. Licence texts and the publisher's
own papers go to the origin folder. All else is left out and named in the model card.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipelines.canonical import READ_SIZE_BYTES, Frozen
from pipelines.digest import FileEntry
from pipelines.errors import NoSpaceLeft, UnusableSource
from pipelines.progress import report
from pipelines.records import LicenceClaim

WEIGHT_PATTERNS = ("*.safetensors", "*.gguf")
CONFIG_PATTERNS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
PAPER_NAMES = ("readme.md", "metadata", "model.sig")
LICENCE_NAME = re.compile(
    r"(un)?(licen[cs]e|copying|notice|use[_-]policy)([._-].*)?", re.IGNORECASE
)
MAX_FILES = 100_000
MAX_TEXT_BYTES = 4 * 1024 * 1024  # licence texts and cards are read into memory

_ASK_PUBLISHER = "Take a source without such files, or ask its publisher to correct it."


class Selection(Frozen):
    """The files of a source, by what becomes of them; paths relative to the source's root."""

    weights: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    papers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def model(self) -> tuple[str, ...]:
        """What goes into the model folder."""
        return tuple(sorted([*self.weights, *self.configs]))


class Fetched(Frozen):
    """What a source gave: the files that now lie in the model folder, and what it claims."""

    files: tuple[FileEntry, ...]
    licences: tuple[LicenceClaim, ...]
    left_out: tuple[str, ...]


def select(paths: Iterable[str]) -> Selection:
    """Sort a source's files by what becomes of them; hidden files and folders are left out."""
    kinds: dict[str, list[str]] = {kind: [] for kind in Selection.model_fields}
    for path in sorted(paths):
        kinds[_kind(path)].append(path)
    return Selection(**{kind: tuple(found) for kind, found in kinds.items()})


def _kind(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    if any(part.startswith(".") for part in path.split("/")):
        return "left_out"
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in WEIGHT_PATTERNS):
        return "weights"
    if LICENCE_NAME.fullmatch(name):
        return "licences"
    if name in PAPER_NAMES:
        return "papers"
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in CONFIG_PATTERNS):
        return "configs"
    return "left_out"


def require_weights(reference: str, selection: Selection) -> None:
    """Refuse a source without weights in an allowed format."""
    if not selection.weights:
        listed = ", ".join(selection.left_out[:5]) or "nothing else"
        raise UnusableSource(
            reference,
            f"no weights in an allowed format (safetensors, GGUF); it holds {listed}",
            "Take a revision in safetensors or GGUF, or convert it in a place without secrets: "
            "other formats can run code when they are loaded.",
        )


def check_names(reference: str, paths: Iterable[str]) -> None:
    """Refuse names that lead out of a folder, or that some file system would merge into one."""
    seen: dict[str, str] = {}
    for count, path in enumerate(paths, start=1):
        parts = path.split("/")
        unsafe = path.startswith("/") or "\\" in path or any(p in ("", ".", "..") for p in parts)
        if unsafe or any(ord(character) < 32 for character in path):
            raise UnusableSource(reference, f"the file name {path!r} is unsafe", _ASK_PUBLISHER)
        key = unicodedata.normalize("NFC", path).casefold()
        if key in seen:
            fact = f"{seen[key]!r} and {path!r} are one name where case or accents do not count"
            raise UnusableSource(reference, fact, _ASK_PUBLISHER)
        if count > MAX_FILES:
            raise UnusableSource(reference, f"more than {MAX_FILES} files", _ASK_PUBLISHER)
        seen[key] = path


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what cannot end: raises NoSpaceLeft when `folder`'s disk is too full."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise NoSpaceLeft(folder, needed_bytes)


def copy_in(stream: IO[bytes], target: Path, *digests: hashlib._Hash) -> FileEntry:
    """Write `stream` to the new file `target`, hashing on the way: each byte is read once.

    Returns its entry with the bare name as path; `digests` are updated with the same bytes.
    """
    sha256, size = hashlib.sha256(), 0
    buffer = bytearray(READ_SIZE_BYTES)
    view = memoryview(buffer)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb", buffering=0) as out:
        # Zip members and sockets have readinto too, although IO[bytes] does not say so.
        while count := stream.readinto(buffer):  # type: ignore[attr-defined]
            for digest in (sha256, *digests):
                digest.update(view[:count])
            size += count
            written = 0
            while written < count:
                written += out.write(view[written:count])
    return FileEntry(path=target.name, size_bytes=size, sha256=sha256.hexdigest())


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, refusing to follow a link put there after the listing."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0)


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


class Meter:
    """Progress of a known number of bytes, in MB."""

    def __init__(self, what: str, total_bytes: int) -> None:
        self._what, self._total, self._done = what, total_bytes, 0

    def add(self, count: int) -> None:
        """Count `count` more bytes as done, and say so."""
        self._done += count
        report(round(self._done / 1e6, 1), round(self._total / 1e6, 1), "MB", self._what)


@contextmanager
def watch(folder: Path, what: str) -> Iterator[None]:
    """Report the growth of the file that arrives under `folder` while the block runs."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1.0):
            report(round(_arriving_bytes(folder) / 1e6, 1), 0, "MB", what)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _arriving_bytes(folder: Path) -> int:
    """Size of the file under `folder` that was written to last."""
    newest, size = 0.0, 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(root, name))
            except FileNotFoundError:  # it was moved away in between
                continue
            if status.st_mtime > newest:
                newest, size = status.st_mtime, status.st_size
    return size
