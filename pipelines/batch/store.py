"""Where a job's objects lie: a folder or an S3 prefix, written once and never changed.

The one promise that everything rests on is `create`: of any number of processes that create the
same name, exactly one is told that it did, and a name is never seen with half its bytes.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pipelines.batch.job import is_s3
from pipelines.errors import NoSpaceLeft, StoreFailed, WrongKindOfPath, is_disk_full

_PARTIAL = ".partial"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


class OutputStore(Protocol):
    """Objects by name, with '/' between folders."""

    @property
    def location(self) -> str:
        """How a user names it."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object; False, and nothing changed, when there is one of that name."""

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, in place of whatever was there."""

    def read(self, name: str) -> bytes | None:
        """All bytes of an object, None when there is none."""

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names of all objects that begin with `prefix`, in no order."""

    def delete(self, name: str) -> None:
        """Remove an object; nothing when there is none."""

    def tidy(self) -> None:
        """Remove what killed writers left; other writers lose nothing but their attempt."""


def open_store(output: str) -> OutputStore:
    """The store for an output location."""
    if is_s3(output):
        from pipelines.batch.s3_store import S3Store

        return S3Store(output)
    return FolderStore(Path(output))


class FolderStore:
    """A folder; `create` is link(2), which fails when the name exists (on NFS too)."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise WrongKindOfPath(folder, "a folder for the output")
        self._folder = folder

    @property
    def location(self) -> str:
        return str(self._folder)

    def create(self, name: str, data: bytes) -> bool:
        target = self._folder / name
        if target.exists():
            return False
        with self._written(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except FileNotFoundError:  # tidied away by a worker that finished the job meanwhile
                if not target.exists():
                    raise
                return False
            except OSError as error:
                if error.errno in _NO_LINKS:
                    fact = "this file system has no hard links, which commits rest on"
                    raise StoreFailed(self.location, name, fact) from error
                raise
        _sync_folder(target.parent)
        return True

    def replace(self, name: str, data: bytes) -> None:
        target = self._folder / name
        with self._written(target, data) as temporary:
            os.replace(temporary, target)
        _sync_folder(target.parent)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        return (self._folder / name).is_file()

    def names(self, prefix: str = "") -> Iterator[str]:
        for root, _, files in os.walk(self._folder / prefix.rpartition("/")[0]):
            for file in files:
                name = Path(root, file).relative_to(self._folder).as_posix()
                if name.startswith(prefix) and not name.endswith(_PARTIAL):
                    yield name

    def delete(self, name: str) -> None:
        target = self._folder / name
        target.unlink(missing_ok=True)
        if target.parent != self._folder:
            with suppress(OSError):  # not empty, or gone
                target.parent.rmdir()

    def tidy(self) -> None:
        for path in self._folder.rglob(f".*{_PARTIAL}"):
            path.unlink(missing_ok=True)

    @contextmanager
    def _written(self, target: Path, data: bytes) -> Iterator[Path]:
        """A file on the disk beside `target`, gone afterwards if it was not moved."""
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PARTIAL}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        except OSError as error:
            if is_disk_full(error):
                raise NoSpaceLeft(target) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """A new name is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
