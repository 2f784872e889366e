"""The machine's content store: DVC's cache, filled by us in one pass over the bytes.

An object lies at `cache/files/md5/XX/YYYY…` under the machine's home, as DVC expects it: named by
its md5, and read-only, which DVC takes as "whole". Work trees hold hard links to it. The ledger
knows each object's sha256.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.canonical import sha256_file
from pipelines.errors import AddressCollision, NoSpaceLeft
from pipelines.store.ledger import Ledger, Row

READ_ONLY = 0o444  # DVC takes an object of this mode as complete and protected
# What link(2) says where a link cannot be: another file system, one without links, too many links.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Bytes in the store, by both of their names."""

    sha256: str
    md5: str
    size_bytes: int


class ObjectStore:
    """The objects under one machine's home (`Settings.home`)."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.objects = home / "cache" / "files" / "md5"
        self.incoming = home / "downloads" / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(home / "downloads" / "ledger.sqlite")
        self._prefixes: set[str] = set()

    def path(self, md5: str) -> Path:
        """Where the object with this address lies, or would."""
        return Path(self._place(md5))

    def _place(self, md5: str) -> str:
        return f"{self.objects}/{md5[:2]}/{md5[2:]}"  # a Path for each of 20,000 costs a second

    def find(self, sha256s: Iterable[str]) -> dict[str, StoredObject]:
        """Those objects that are here and are the files that were hashed, by sha256.

        They count as used now, so that a garbage collection beside us leaves them alone.
        """
        found: dict[str, StoredObject] = {}
        for sha256, row in self.ledger.rows(sha256s).items():
            if self._is_as_hashed(row) and self._touch(row):
                found[sha256] = StoredObject(sha256, row.md5, row.size_bytes)
        return found

    def find_by_key(self, keys: Iterable[str]) -> dict[str, StoredObject]:
        """Objects that came from these places of a source, by key; see `Offer.key`."""
        sha256s = self.ledger.sha256s(keys)
        objects = self.find(set(sha256s.values()))
        return {key: objects[sha256] for key, sha256 in sha256s.items() if sha256 in objects}

    def adopt(self, temporary: str, stored: StoredObject) -> Row:
        """Make a finished file (mode READ_ONLY, same file system) the object of its address.

        When the address is taken, the object there is kept if it is the same bytes, replaced if it
        was damaged, and the newcomer is refused with AddressCollision if both are sound: then two
        contents share an md5, and DVC would hand out one for the other.
        """
        path = self._place(stored.md5)
        if stored.md5[:2] not in self._prefixes:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._prefixes.add(stored.md5[:2])
        try:
            os.link(temporary, path)
        except FileExistsError:
            self._keep_or_replace(temporary, Path(path), stored)
        else:
            os.unlink(temporary)
        status = os.stat(path)
        return Row(stored.sha256, stored.md5, stored.size_bytes, status.st_ino, status.st_mtime_ns)

    def link(self, stored: StoredObject, target: str | Path) -> None:
        """Put the object at the new path `target`: a hard link, or a copy where none can be."""
        path = self._place(stored.md5)
        try:
            os.link(path, target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            shutil.copyfile(path, target)
            os.chmod(target, READ_ONLY)

    def is_object(self, md5: str, inode: int) -> bool:
        """Whether this inode is the object with that address."""
        return os.stat(self._place(md5)).st_ino == inode

    def _keep_or_replace(self, temporary: str, path: Path, stored: StoredObject) -> None:
        known = [row for row in self.ledger.by_md5(stored.md5) if self._is_as_hashed(row)]
        there = known[0].sha256 if known else sha256_file(path)
        if there == stored.sha256:
            os.chmod(path, READ_ONLY)
            os.unlink(temporary)
            return
        if _md5_file(path) == stored.md5:
            raise AddressCollision(stored.md5, there, stored.sha256)
        os.replace(temporary, path)

    def _is_as_hashed(self, row: Row) -> bool:
        try:
            status = os.stat(self._place(row.md5))
        except FileNotFoundError:
            return False
        return (status.st_ino, status.st_size, status.st_mtime_ns) == (
            row.inode, row.size_bytes, row.mtime_ns,
        )  # fmt: skip

    def _touch(self, row: Row) -> bool:
        """Set the time of its last use, and no other; False when it has just been removed."""
        try:
            os.utime(self._place(row.md5), ns=(time.time_ns(), row.mtime_ns))
        except FileNotFoundError:
            return False
        return True


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what cannot end: raises NoSpaceLeft when `folder`'s disk is too full."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise NoSpaceLeft(folder, needed_bytes)


def _md5_file(path: Path) -> str:
    from pipelines.store.integrity import dvc_address

    return dvc_address(path)
