"""Files of a corpus in a folder: found in a fixed order, opened one at a time."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from pipelines.batch.documents.compression import split_suffixes
from pipelines.batch.text import DocumentError
from pipelines.errors import ConfigError


class CorpusFiles(Protocol):
    """Where the files of a corpus lie."""

    streams: int  # how many files are worth reading at a time

    def paths(self, suffixes: Collection[str], ignored: Counter[str]) -> Iterator[str]:
        """Relative paths of files with these suffixes (compressed or not), in a fixed order.

        Others are counted in `ignored`, by suffix. A corpus that is one file has the path ''.
        """

    def open(self, path: str) -> tuple[BinaryIO, int]:
        """A seekable stream and its size in bytes; DocumentError when it cannot be read."""

    def name(self, path: str) -> str:
        """How a user names a file; its suffixes say what it is."""


class FolderFiles:
    """A folder, or one file."""

    streams = 1

    def __init__(self, root: Path) -> None:
        self._root = root

    def paths(self, suffixes: Collection[str], ignored: Counter[str]) -> Iterator[str]:
        if self._root.is_file():
            return iter([""])
        return _walk(self._root, "", suffixes, ignored)

    def open(self, path: str) -> tuple[BinaryIO, int]:
        source = self._root / path if path else self._root
        try:
            # Without blocking: opening a pipe that nobody writes to would wait for ever.
            descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise DocumentError("unreadable", error.strerror or str(error)) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise DocumentError("unreadable", "not a regular file")
        return os.fdopen(descriptor, "rb"), status.st_size

    def name(self, path: str) -> str:
        return str(self._root / path if path else self._root)


def is_wanted(name: str, suffixes: Collection[str]) -> bool:
    """Whether a name ends in one of `suffixes`, compressed or not."""
    return split_suffixes(name)[0] in suffixes


def counted_as(name: str) -> str:
    """What a file that is no document is counted as: its suffixes."""
    suffix, compression = split_suffixes(name)
    return suffix + compression or "no suffix"


def _walk(
    folder: Path, prefix: str, suffixes: Collection[str], ignored: Counter[str]
) -> Iterator[str]:
    """Sorted as whole paths: a folder sorts as its name with '/'."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((e.name + "/" if e.is_dir() else e.name, e) for e in scan)
    except OSError as error:
        raise ConfigError(
            folder, f"cannot be listed ({error.strerror})", "Every folder of a corpus must be."
        ) from error
    for name, entry in entries:
        if name.startswith("."):
            ignored["hidden"] += 1
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), prefix + name, suffixes, ignored)
        elif name.endswith("/"):
            ignored["linked folder"] += 1
        elif is_wanted(name, suffixes):
            yield prefix + name
        else:
            ignored[counted_as(name)] += 1
