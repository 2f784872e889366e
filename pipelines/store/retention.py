"""What this machine's store keeps, what may go, and why: the plan behind `weighbridge gc`.

Only what can be had again may go: objects of the cache that nobody needs (see `referrers`) and
that the remote holds, and leftovers of runs that ended. Whatever is younger than the grace period,
or than the oldest live run, stays: a run may have looked at it.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.canonical import Frozen
from pipelines.errors import ConfigError
from pipelines.file_lock import if_free
from pipelines.settings import Settings
from pipelines.store.remote import OBJECTS, address_of
from pipelines.store.workspace import ALIVE

DAY_S = 24 * 3600.0
# A checkpoint may stand for days of an accelerator: a killed training is given time to go on.
TRAINING_GRACE_S = 14 * DAY_S
REMOVING = ".weighbridge-removing"  # suffix of an object on its way out
_SIZES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
_PERIODS_S = {"m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}

Kind = Literal["object", "run cache", "partial download", "package", "listing", "clone", "training"]


class RetentionConfig(Frozen):
    """How much may go. Times in seconds, sizes in bytes."""

    older_than_s: float = Field(default=DAY_S, ge=0)
    budget_bytes: int | None = Field(default=None, ge=0)
    not_in_remote: bool = False


class Item(Frozen):
    """Something on the disk that may go. `last_used` is in seconds since 1970."""

    kind: Kind
    path: Path
    what: str
    why: str
    size_bytes: int
    last_used: float
    address: str = ""
    in_remote: bool = True


class Kept(Frozen):
    """What stays for one reason."""

    why: str
    count: int
    size_bytes: int


class Plan(Frozen):
    """What stays and what may go; `going` is what `remove` takes, oldest first."""

    kept: tuple[Kept, ...]
    going: tuple[Item, ...]
    within_budget: tuple[Item, ...]
    not_in_remote: tuple[Item, ...]
    total_bytes: int
    budget_bytes: int | None

    @property
    def going_bytes(self) -> int:
        """What removing `going` gives back."""
        return sum(item.size_bytes for item in self.going)

    @property
    def over_budget_bytes(self) -> int:
        """How much the store stays over its budget because nothing else may go."""
        if self.budget_bytes is None:
            return 0
        return max(0, self.total_bytes - self.going_bytes - self.budget_bytes)


class Needs(Frozen):
    """What the registry says: needed addresses with the reason, names of others, the remote."""

    needed: dict[str, str]
    names: dict[str, str]
    remote_sizes: dict[str, int]


def parse_size(text: str) -> int:
    """'200GB' or '1.5 TiB' in bytes; raises ConfigError, also without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", text.strip().lower())
    if match is None:
        raise ConfigError("--budget", f"{text!r} is not a size", "Write 200GB, 1.5TB or 500GiB.")
    return int(float(match[1]) * _SIZES[match[2]])


def parse_period(text: str) -> float:
    """'12h', '1d' or '2w' in seconds; raises ConfigError."""
    match = re.fullmatch(r"(\d+)\s*([mhdw])", text.strip().lower())
    if match is None:
        remedy = "Write 30m, 12h, 1d or 2w."
        raise ConfigError("--older-than", f"{text!r} is not a period", remedy)
    return int(match[1]) * _PERIODS_S[match[2]]


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
        self._oldest_live = min((_status(folder).st_mtime for folder in clones[0]), default=now)
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
        for path in sorted(self._objects.glob("??/*")):
            status = _status(path)
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

        for path in sorted((self._home / "cache" / "runs").glob("??/*/*")):
            status = _status(path)
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


def _status(path: Path) -> os.stat_result:
    return path.stat(follow_symlinks=False)


def _links_below(folders: list[Path]) -> Mapping[tuple[int, int], int]:
    """How often each hard-linked file occurs below these folders."""
    links: Counter[tuple[int, int]] = Counter()
    for folder in folders:
        for root, _, files in os.walk(folder):
            for file in files:
                status = _status(Path(root, file))
                if status.st_nlink > 1:
                    links[(status.st_dev, status.st_ino)] += 1
    return links


def _size_and_time(path: Path) -> tuple[int, float]:
    """Bytes that are given back when `path` goes, and its newest modification."""
    status = _status(path)
    if not stat.S_ISDIR(status.st_mode):
        return (status.st_size if status.st_nlink == 1 else 0), status.st_mtime
    size, newest = 0, status.st_mtime
    for root, _, files in os.walk(path):
        for file in files:
            inner = _status(Path(root, file))
            size += inner.st_size if inner.st_nlink == 1 else 0
            newest = max(newest, inner.st_mtime)
    return size, newest
