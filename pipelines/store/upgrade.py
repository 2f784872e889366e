"""A registry that an earlier version made, brought to the installed one.

Ours in a registry are dvc.yaml and code/: they are replaced. Files that a new registry has and this
one lacks (a policy, the README of a folder that a stage depends on) are added. Everything else is
the user's: a file that is there is never touched, whatever stands in it.
"""

from __future__ import annotations

import difflib
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import yaml

from pipelines.canonical import Frozen
from pipelines.errors import ConfigError
from pipelines.settings import Settings
from pipelines.store.registry import write_files
from pipelines.store.workspace import open_workspace

_GRAPH = "dvc.yaml"
_CODE = "code/"
# What a registry may well be without: examples, and what it names by itself.
_OPTIONAL = ("suites/", "models.yaml", "policy/gates/")


class Change(Frozen):
    """One file that differs from the installed version's; `diff` is a unified diff of dvc.yaml."""

    path: str
    kind: Literal["replaced", "added"]
    why: str
    diff: str = ""


def differences(root: Path) -> list[Change]:
    """What an upgrade of the work tree at `root` would change; nothing is written.

    Raises ConfigError for a dvc.yaml with stages that are not ours.
    """
    with tempfile.TemporaryDirectory(prefix="weighbridge-") as scratch:
        fresh = Path(scratch)
        write_files(fresh)
        names = sorted(p.relative_to(fresh).as_posix() for p in fresh.rglob("*") if p.is_file())
        return [change for name in names if (change := _difference(root, fresh, name))]


def upgrade_registry(settings: Settings, *, applying: bool) -> list[Change]:
    """What differs in the registry at origin; with `applying`, changed there and pushed.

    The user's own work tree follows with `weighbridge pull`. Raises ConfigError as `differences`
    does, and Busy when others push all the time.
    """
    with open_workspace(settings) as workspace:
        changes = differences(workspace.root)
        if applying and changes:
            workspace.change("Upgrade the registry to the installed version", _apply)
        return changes


def _apply(root: Path) -> list[str]:
    """Write what differs; again on a fresh state when origin moved on."""
    changes = differences(root)
    with tempfile.TemporaryDirectory(prefix="weighbridge-") as scratch:
        fresh = Path(scratch)
        write_files(fresh)
        for change in changes:
            target = root / change.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / change.path, target)
    return []


def _difference(root: Path, fresh: Path, name: str) -> Change | None:
    there, installed = root / name, (fresh / name).read_bytes()
    if name == _GRAPH:
        return _graph_difference(there, installed.decode())
    if name.startswith(_CODE):
        if there.is_file() and there.read_bytes() == installed:
            return None
        kind: Literal["replaced", "added"] = "replaced" if there.exists() else "added"
        return Change(path=name, kind=kind, why="names the code that is installed here")
    if there.exists() or name.startswith(_OPTIONAL):
        return None
    return Change(path=name, kind="added", why="a stage of the installed version reads it")


def _graph_difference(path: Path, installed: str) -> Change | None:
    current = path.read_text(encoding="utf-8") if path.is_file() else ""
    if current == installed:
        return None
    if own := _stages(path, current) - _stages(path, installed):
        remedy = "Move them to a dvc.yaml in a folder of their own, which is never touched."
        raise ConfigError(path, f"it has stages that are not ours: {sorted(own)}", remedy)
    diff = difflib.unified_diff(
        current.splitlines(), installed.splitlines(), "registry", "installed", lineterm=""
    )
    why = "the release graph of the installed version; stages whose inputs differ become stale"
    kind: Literal["replaced", "added"] = "replaced" if current else "added"
    return Change(path=_GRAPH, kind=kind, why=why, diff="\n".join(diff))


def _stages(path: Path, text: str) -> set[str]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(path, "it is not YAML", "Restore it from git.") from error
    stages = document.get("stages") if isinstance(document, dict) else None
    return {str(name) for name in stages} if isinstance(stages, dict) else set()
