"""file:// — weights in a local folder, or a single file of weights.

The pin is the weight digest of what is taken from the folder (weights, configuration, tokenizer),
so that an ingest as-is has the pin itself as its weight digest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.digest import files_by_name
from pipelines.errors import SourceNotFound
from pipelines.references import Reference
from pipelines.sources.selection import WEIGHT_PATTERNS, Selection, select
from pipelines.store.receiving import Offer, Plain, Reader


class FolderSource:
    """The files of one folder, or one file alone.

    Raises SourceNotFound when there is nothing at the path, and WrongKindOfPath for a link, a
    device, or a file that is no weights.
    """

    streams = 2  # two large files at a time, each hashed by two threads
    remote = False

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._paths = _paths(reference)
        said = str(reference)
        self.offers: Mapping[str, Offer] = {
            name: _offer(said, name, path) for name, path in self._paths.items()
        }

    def select(self, paths: Sequence[str]) -> Selection:
        """As every source does."""
        return select(paths)

    def placed(self, path: str, selection: Selection) -> str:
        """Files keep their names."""
        return path

    @contextmanager
    def open_at(self, offer: Offer, offset: int) -> Iterator[Reader]:
        """Open the file itself: a link put there after the listing is not followed."""
        descriptor = os.open(self._paths[offer.path], os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.lseek(descriptor, offset, os.SEEK_SET)
            yield Plain(descriptor)
        finally:
            os.close(descriptor)


def _paths(reference: Reference) -> dict[str, str]:
    where = Path(reference.where)
    if not where.exists():
        raise SourceNotFound(str(reference), "there is no such folder", "Check the path.")
    if where.is_file() and where.suffix in {Path(name).suffix for name in WEIGHT_PATTERNS}:
        return {where.name: str(where)}
    return files_by_name(where)


def _offer(reference: str, name: str, path: str) -> Offer:
    """The key holds what changes with a file's contents: its inode's times, to the nanosecond."""
    status = os.lstat(path)
    times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
    key = f"file://{path}#{status.st_dev}:{status.st_ino}:{status.st_size}:{times}"
    return Offer(reference, name, status.st_size, key)
