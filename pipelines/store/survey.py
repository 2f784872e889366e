"""Sort everything in this machine's store into what stays and what may go.

Only what can be had again may go: objects of the cache that nobody needs (see `referrers`) and
that the remote holds, and leftovers of runs that ended. Whatever is younger than the grace period,
or than the oldest live run, stays: a run may have looked at it. Runs go on meanwhile, so anything
may vanish between being listed and being looked at.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipelines.file_lock import if_free
from pipelines.settings import Settings
from pipelines.store.remote import OBJECTS, address_of
from pipelines.store.retention import (
    TRAINING_GRACE_S,
    Item,
    Kept,
    Kind,
    Needs,
    Plan,
    RetentionConfig,
)
from pipelines.store.workspace import ALIVE

_RUN_CACHE_ENTRY = re.compile(r"[0-9a-f]{64}")


def sort_clones(clones: Path, own: Path | None = None) -> tuple[list[Path], list[Path]]:
    """The folders of live clones and of dead ones; `own` is in neither."""
    live: list[Path] = []
    dead: list[Path] = []
    for folder in sorted(clones.iterdir()) if clones.is_dir() else []:
        if folder.is_dir() and folder != own:
            (dead if is_dead(folder) else live).append(folder)
    return live, dead


def is_dead(clone: Path) -> bool:
    """Whether the process that made a clone is gone: the kernel gave its lock back."""
    if not (clone / ALIVE).is_file():
        return True  # killed between making the folder and locking it
    with if_free(clone / ALIVE) as free:
        return free


def make_plan(
    settings: Settings,
    config: RetentionConfig,
    needs: Needs,
    clones: tuple[list[Path], list[Path]],
    now: float,
) -> Plan:
    """Sort everything in the store into what stays and what may go. Nothing is changed."""
    survey = _Survey(settings, config, needs, clones, now)
    items = sorted(survey.items(), key=lambda item: item.last_used)
    restorable = [item for item in items if item.in_remote or config.not_in_remote]
    going = restorable
    total = survey.kept_bytes + sum(item.size_bytes for item in items)
    if config.budget_bytes is not None:
        going, left = [], total
        for item in restorable:
            if left <= config.budget_bytes:
                break
            going.append(item)
            left -= item.size_bytes
    chosen = {item.path for item in going}
    return Plan(
        kept=survey.kept(),
        going=tuple(going),
        within_budget=tuple(item for item in restorable if item.path not in chosen),
        not_in_remote=tuple(item for item in items if not item.in_remote),
        total_bytes=total,
        budget_bytes=config.budget_bytes,
    )


class _Survey:
    """One walk over the machine's home."""

    def __init__(
        self,
        settings: Settings,
        config: RetentionConfig,
        needs: Needs,
        clones: tuple[list[Path], list[Path]],
        now: float,
    ) -> None:
        self._home, self._needs = settings.home, needs
        self._objects = settings.cache / OBJECTS
        self._dead = clones[1]
        self._grace = now - config.older_than_s
        self._training_grace = now - max(config.older_than_s, TRAINING_GRACE_S)
        self._oldest_live = min((status.st_mtime for _, status in _present(clones[0])), default=now)
        self._kept: Counter[str] = Counter()
        self._kept_bytes: Counter[str] = Counter()
        self._here: set[str] = set()

    @property
    def kept_bytes(self) -> int:
        """Bytes of everything that stays, whatever the budget."""
        return self._kept_bytes.total()

    def kept(self) -> tuple[Kept, ...]:
        """What stays, by reason."""
        return tuple(
            Kept(why=why, count=count, size_bytes=self._kept_bytes[why])
            for why, count in sorted(self._kept.items())
        )

    def items(self) -> Iterator[Item]:
        """Everything that may go."""
        yield from self._clones()
        yield from self._cache()
        yield from self._runs()
        downloads = self._home / "downloads"
        again = "can be fetched again"
        places: tuple[tuple[str, Kind, str], ...] = (
            ("incoming", "partial download", "nobody went on with it"),
            ("scratch", "partial download", "nobody went on with it"),
            ("pypi", "package", again),
            ("sources", "listing", again),
        )
        for name, kind, why in places:
            yield from self._leftovers(downloads / name, kind, why, self._grace)
        training = self._home / "training"
        why = "checkpoints of a training that nobody went on with"
        yield from self._leftovers(training, "training", why, self._training_grace)

    def _clones(self) -> Iterator[Item]:
        for folder in self._dead:
            yield from self._leftover(folder, "clone", "its process is gone", self._grace)

    def _cache(self) -> Iterator[Item]:
        linked = _links_below(self._dead)
        for path, status in _present(self._objects.glob("??/*")):
            address = address_of(f"{path.parent.name}/{path.name}")
            if not address:
                # What DVC or a collection that was killed left half done.
                yield from self._leftover(path, "partial download", "left half done", self._grace)
                continue
            used = last_used(status)
            others = status.st_nlink - 1 - linked[(status.st_dev, status.st_ino)]
            why = self._needs.needed.get(address, "")
            if not why and others > 0:
                why = "linked into a work tree"
            if not why and used > min(self._grace, self._oldest_live):
                why = "used within the grace period" if used > self._grace else "a run is live"
            if why:
                self._here.add(address)
                self._keep(why, status.st_size)
            else:
                yield self._object(path, address, status)

    def _object(self, path: Path, address: str, status: os.stat_result) -> Item:
        stored = self._needs.remote_sizes.get(address)
        name = self._needs.names.get(address, "never in a commit")
        return Item(
            kind="object",
            path=path,
            what=name,
            why="no release, branch, work tree or run needs it",
            size_bytes=status.st_size,
            last_used=last_used(status),
            address=address,
            in_remote=stored == status.st_size,
        )

    def _runs(self) -> Iterator[Item]:
        """Entries of the run cache that cannot restore anything here any more."""
        import yaml

        for path, status in _present((self._home / "cache" / "runs").glob("??/*/*")):
            if not _RUN_CACHE_ENTRY.fullmatch(path.name):
                yield from self._leftover(path, "partial download", "left half done", self._grace)
                continue
            entry = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
            outputs = [str(out.get("md5", "")) for out in entry.get("outs", [])]
            if status.st_mtime > self._grace or any(out in self._here for out in outputs):
                self._keep("run cache", status.st_size)
            else:
                yield Item(
                    kind="run cache",
                    path=path,
                    what=str(entry.get("cmd", path.name)),
                    why="its outputs are not kept here",
                    size_bytes=status.st_size,
                    last_used=status.st_mtime,
                )

    def _leftovers(self, folder: Path, kind: Kind, why: str, grace: float) -> Iterator[Item]:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix != ".lock":
                yield from self._leftover(path, kind, why, grace)

    def _leftover(self, path: Path, kind: Kind, why: str, grace: float) -> Iterator[Item]:
        size, newest = _size_and_time(path)
        if newest > min(grace, self._oldest_live if kind != "clone" else grace):
            self._keep(f"{kind}, within the grace period", size)
            return
        yield Item(kind=kind, path=path, what=path.name, why=why, size_bytes=size, last_used=newest)

    def _keep(self, why: str, size: int) -> None:
        self._kept[why] += 1
        self._kept_bytes[why] += size


def last_used(status: os.stat_result) -> float:
    """When an object was written, read, or linked to or from: a new link changes its ctime."""
    return max(status.st_mtime, status.st_ctime, status.st_atime)


def _present(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Each path that is still there, with its status."""
    for path in sorted(paths):
        try:
            yield path, path.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue


def _files_below(folder: Path) -> Iterator[os.stat_result]:
    for root, _, files in os.walk(folder):
        for _, status in _present(Path(root, file) for file in files):
            yield status


def _links_below(folders: list[Path]) -> Mapping[tuple[int, int], int]:
    """How often each hard-linked file occurs below these folders."""
    return Counter(
        (status.st_dev, status.st_ino)
        for folder in folders
        for status in _files_below(folder)
        if status.st_nlink > 1
    )


def _size_and_time(path: Path) -> tuple[int, float]:
    """Bytes that are given back when `path` goes, and its newest modification."""
    own = [status for _, status in _present([path])]
    is_folder = bool(own) and stat.S_ISDIR(own[0].st_mode)
    found = list(_files_below(path)) if is_folder else own
    size = sum(status.st_size for status in found if status.st_nlink == 1)
    return size, max((status.st_mtime for status in [*own, *found]), default=0.0)
