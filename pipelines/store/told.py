"""Tell DVC the hashes of files that were hashed on their way in, so that it need not read them."""

from __future__ import annotations

import getpass
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pipelines.digest import FileEntry
from pipelines.store.objects import ObjectStore


def tell_dvc(root: Path, folder: Path, files: Iterable[FileEntry], store: ObjectStore) -> int:
    """Put the addresses of those `files` of `folder` that are links into the store in DVC's state.

    `root` is the registry's work tree, `folder` the output under its final name: DVC's state goes
    by path, inode, size and modification time. Returns how many files DVC was told of; the others
    it hashes itself.
    """
    entries = list(files)
    objects = store.find({entry.sha256 for entry in entries})
    told: list[tuple[str, str, dict[str, int | float]]] = []
    for entry in entries:
        if entry.sha256 not in objects:
            continue
        md5, path = objects[entry.sha256].md5, f"{folder}/{entry.path}"
        status = os.stat(path)
        if status.st_nlink > 1 and store.is_object(md5, status.st_ino):
            info = {"ino": status.st_ino, "mtime": status.st_mtime, "size": status.st_size}
            told.append((path, md5, info))
    if told:
        _save(root, told)
    return len(told)


def _save(root: Path, told: list[tuple[str, str, dict[str, int | float]]]) -> None:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.state import State
    from dvc_objects.fs.local import localfs

    state = State(str(root), str(state_folder(root)))
    try:
        items = ((path, HashInfo("md5", md5), info) for path, md5, info in told)
        state.save_many(items, localfs)
    finally:
        state.close()  # type: ignore[no-untyped-call]


def state_folder(root: Path) -> Path:
    """Where DVC keeps its state of the work tree `root`.

    As `dvc.repo.Repo.site_cache_dir` makes it, whose module takes half a second to import; a test
    compares the two. In a wrong place, what DVC is told is not heard, and it reads the files.
    """
    from dvc.dirs import site_cache_dir
    from dvc.version import version_tuple

    birth = root / ".dvc" / "tmp" / "btime"  # DVC's mark of when it first saw this work tree
    birth.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError), birth.open("x"):
        pass
    salt, subrepo = 0, None
    token = (str(root), subrepo, birth.stat().st_mtime, getpass.getuser(), version_tuple[0], salt)
    name = hashlib.md5(str(token).encode(), usedforsecurity=False).hexdigest()
    return Path(site_cache_dir(None)) / "repo" / name
