"""Remove what a retention plan lets go; killed at any instant, the next run goes on.

An object is first renamed, so that nobody can take it by its address any more, and then looked at
again: who linked to it in between keeps it. The remote is never touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.canonical import Frozen
from pipelines.file_lock import if_free
from pipelines.settings import Settings
from pipelines.store.dvc import Dvc
from pipelines.store.git import git
from pipelines.store.referrers import listed_here, past_names, referrers, with_listed_files
from pipelines.store.remote import OBJECTS, open_remote
from pipelines.store.retention import REMOVING, Item, Needs, Plan, RetentionConfig
from pipelines.store.survey import is_dead, make_plan, sort_clones
from pipelines.store.workspace import open_workspace

# Clones first (they hold links), then folders' listings: a listing that is there is whole.
_ORDER = ("clone", "object", "run cache", "partial download", "package", "listing", "training")


class Removed(Frozen):
    """What was removed, and what was not because somebody took it up meanwhile."""

    count: int
    size_bytes: int
    taken_up: tuple[Path, ...]


def collect(settings: Settings, config: RetentionConfig, now: float) -> Plan:
    """Ask origin and the remote what is needed, and plan; changes nothing.

    `now` is in seconds since 1970. Raises SourceNotFound without an origin to ask, RemoteFailed or
    ConfigError without a remote to ask, and DigestMismatch for a damaged listing.
    """
    with open_workspace(settings) as workspace:
        root = workspace.root
        git(root, "fetch", "--quiet", "--tags", "origin")
        clones = sort_clones(settings.clones, own=root.parent)
        objects = settings.cache / OBJECTS
        remote = open_remote(root, Dvc(root).settings())
        needed = referrers(root, settings.work_tree, clones[0])
        names = past_names(root)
        for address, name in list(names.items()):
            if address.endswith(".dir"):
                for file, _ in listed_here(address, objects):
                    names.setdefault(file, name)
        needs = Needs(
            needed=with_listed_files(needed, objects, remote),
            names=names,
            remote_sizes=remote.sizes(),
        )
        return make_plan(settings, config, needs, clones, now)


def remove(settings: Settings, items: Iterable[Item]) -> Removed:
    """Remove these items, except those that somebody took up since they were planned."""
    count = size = 0
    taken: list[Path] = []
    for item in sorted(items, key=_order):
        if _remove(settings, item):
            count, size = count + 1, size + item.size_bytes
        else:
            taken.append(item.path)
    return Removed(count=count, size_bytes=size, taken_up=tuple(taken))


def recover(cache: Path) -> None:
    """Finish what a killed collection began: give back what is linked, drop the rest."""
    for path in (cache / OBJECTS).glob(f"??/*{REMOVING}"):
        target = path.with_name(path.name.removesuffix(REMOVING))
        if path.stat().st_nlink > 1 and not target.exists():
            os.rename(path, target)
        else:
            path.unlink()


def _order(item: Item) -> tuple[int, bool, float]:
    return _ORDER.index(item.kind), not item.address.endswith(".dir"), item.last_used


def _remove(settings: Settings, item: Item) -> bool:
    path = item.path
    if item.kind == "object":
        return _remove_object(item)
    if item.kind == "clone":
        if not is_dead(path):
            return False
        shutil.rmtree(path)
        return True
    with _nobody_works_on(settings, item) as free:
        if not free or not path.exists():
            return False
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return True


@contextmanager
def _nobody_works_on(settings: Settings, item: Item) -> Iterator[bool]:
    """Hold the lock under which others write to a leftover, where there is one."""
    if item.kind == "training":
        lock = item.path.with_name(f"{item.path.name}.lock")
    elif item.kind == "partial download" and item.path.is_file():
        lock = item.path  # a download under way locks the file itself
    else:
        lock = settings.downloads / "locks" / f"{item.path.name}.lock"
    if not lock.is_file():
        yield True
        return
    with if_free(lock) as free:
        yield free


def _remove_object(item: Item) -> bool:
    path = item.path
    leaving = path.with_name(f"{path.name}{REMOVING}")
    try:
        before = path.stat()
        if before.st_nlink > 1 or max(before.st_mtime, before.st_atime) > item.last_used:
            return False
        os.rename(path, leaving)
    except FileNotFoundError:
        return False
    after = leaving.stat()
    # Linked or found between our look and our rename.
    if after.st_nlink > 1 or after.st_atime_ns != before.st_atime_ns:
        os.rename(leaving, path)
        return False
    leaving.unlink()
    return True
