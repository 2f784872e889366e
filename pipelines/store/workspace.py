"""A disposable clone of the registry in which stages run, and its way back to origin.

Each flow run has its own clone with the machine's shared DVC cache, so that runs never wait for
each other's locks and a user's work tree is never touched.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import Busy, CommandFailed, SourceNotFound
from pipelines.file_lock import exclusive
from pipelines.settings import Settings
from pipelines.store import git
from pipelines.store.bucket_pull import fetch
from pipelines.store.bucket_push import push
from pipelines.store.dvc import CACHE_TYPE, Dvc, StageOutcome
from pipelines.store.integrity import locked_stages
from pipelines.subprocesses import OnLine

ALIVE = "alive.lock"  # in a clone's folder: locked for as long as the clone's process lives
BESIDE_SUFFIXES = (".run.json", ".sig.json")  # committed to git, ignored by DVC
_PUSH_ATTEMPTS = 20  # each failed attempt means that another run published: progress was made


class Workspace:
    """One clone. `root` is its work tree; it is removed when the `with` block ends.

    `home` is the folder that holds its cache: the machine's, or the clone's own.
    """

    def __init__(self, settings: Settings, root: Path, home: Path, dvc: Dvc) -> None:
        self.settings, self.root, self.home, self.dvc = settings, root, home, dvc
        self._touched: list[str] = []
        self._unchanged: frozenset[str] | None = None

    def restore(self, *targets: str) -> None:
        """Bring outputs into the work tree: links from the shared cache, else from the remote.

        What the remote lacks or holds as other bytes is not there afterwards. Raises RemoteFailed.
        """
        is_here = fetch(self.root, self.home, targets)
        self.dvc("checkout" if is_here else "pull", "--allow-missing", *targets)

    def current(self) -> frozenset[str]:
        """Stage instances whose inputs and outputs are as dvc.lock records them."""
        self.dvc("checkout", "--allow-missing", "--quiet")
        return locked_stages(self.root) - set(self.dvc.changes())

    def reproduce(self, instance: str, on_line: OnLine | None = None) -> StageOutcome:
        """Bring one stage instance up to date; see Dvc.reproduce. What it made is not published.

        As long as nothing ran in this clone, one question to DVC answers for all instances, so that
        a run in which nothing changed costs seconds and not seconds per stage.
        """
        if self._unchanged is None:
            self._unchanged = self.current()
        if instance in self._unchanged:
            return "unchanged"
        outcome = self.dvc.reproduce(instance, self.settings.home, on_line)
        if outcome != "unchanged":
            self._touched.append(instance)
            self._unchanged = frozenset()
        return outcome

    def publish(self, message: str) -> str:
        """Push outputs, run cache and dvc.lock; return the commit.

        When origin moved on meanwhile: reset to it, reproduce again (free, by the run cache),
        and push once more.
        """
        for _ in range(_PUSH_ATTEMPTS):
            if self._touched and not push(self.root, self.home, self._touched):
                # Not --quiet: it would hide why a push failed (a full disk, refused keys).
                self.dvc("push", "--run-cache", *self._touched)
            git.commit_all(self.root, message)
            if git.push(self.root):
                self._touched.clear()
                return git.head(self.root)
            beside = self._files_beside_records()
            self._start_over()
            for instance in self._touched:
                self.dvc.reproduce(instance, self.settings.home)
            for path, content in beside.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        raise Busy(self.settings.origin, f"other runs, {_PUSH_ATTEMPTS} times in a row")

    def change(self, message: str, apply: Callable[[Path], list[str]]) -> str:
        """Apply an edit to the work tree and push it; `apply` returns refs (tags) to push with it.

        `apply` is called again on a fresh state when origin moved on, so it must read what it
        edits.
        """
        for attempt in range(_PUSH_ATTEMPTS):
            refs = apply(self.root)
            git.commit_all(self.root, message)
            if git.push(self.root, *refs):
                self._unchanged = None
                return git.head(self.root)
            for ref in refs:
                git.git(self.root, "tag", "--delete", ref.removeprefix("refs/tags/"))
            self._start_over()
            time.sleep(0.05 * attempt)
        raise Busy(self.settings.origin, f"other runs, {_PUSH_ATTEMPTS} times in a row")

    def _files_beside_records(self) -> dict[Path, bytes]:
        """Run times and signatures of this run: git holds them, so a reset would lose them."""
        names = git.git(self.root, "diff", "--name-only", "origin/main", "HEAD").split()
        paths = [self.root / name for name in names if name.endswith(BESIDE_SUFFIXES)]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    def _start_over(self) -> None:
        git.reset_to_origin(self.root)
        self._unchanged = None


@contextmanager
def open_workspace(
    settings: Settings, *, revision: str = "main", shared_cache: bool = True
) -> Iterator[Workspace]:
    """Clone origin at `revision`; with `shared_cache=False` nothing on this machine is trusted.

    A fresh cache and state database (promotion, audit) mean that every byte comes from the remote
    and is checked on arrival.
    """
    settings.clones.mkdir(parents=True, exist_ok=True)
    folder = settings.clones / f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}"
    folder.mkdir()
    with exclusive(folder / ALIVE, "a clone"):
        yield from _clone(settings, folder, revision, shared_cache)


def _clone(
    settings: Settings, folder: Path, revision: str, shared_cache: bool
) -> Iterator[Workspace]:
    try:
        root = folder / "registry"
        try:
            git.git(folder, "clone", "--quiet", settings.origin, str(root))
        except CommandFailed as error:
            raise SourceNotFound(settings.origin, "git cannot clone this registry") from error
        if revision != "main":
            git.git(root, "checkout", "--quiet", "--detach", revision)
        home = settings.home if shared_cache else folder
        dvc = Dvc(root, folder / "site-cache")
        _configure(root, home / "cache")
        yield Workspace(settings, root, home, dvc)
    finally:
        shutil.rmtree(folder)


def _configure(root: Path, cache: Path) -> None:
    """Write the clone's local DVC settings as a file: a dvc command each would cost a second."""
    text = f'[cache]\n    dir = {cache}\n    type = "{CACHE_TYPE}"\n'
    (root / ".dvc" / "config.local").write_text(text, encoding="utf-8")
