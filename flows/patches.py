"""`weighbridge advisories`: the environment and what models were saved with, against OSV."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.advisories import Examined, Snapshot, examine, update
from pipelines.canonical import Frozen, sha256_file
from pipelines.code_digest import PROJECT, environment_stamp
from pipelines.errors import NotARegistry
from pipelines.lock_file import read_lock
from pipelines.records import VerificationRecord, read_record
from pipelines.settings import Settings, load_settings
from pipelines.store.integrity import locked_outputs
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace
from pipelines.verification.policy import AdvisoryPolicy, load_policy

_SAVED = (
    "{name} was saved by {package} {version}; the version that loads it here is {here}. What a "
    "configuration names is what wrote it, not what it needs, so it decides nothing."
)


class CheckOptions(Frozen):
    """What to compare, and by which policy; the registry's own by default."""

    locks: tuple[Path, ...] = ()
    policy: Path | None = None


def update_snapshot(source: str, registry: Path | None) -> Snapshot:
    """Take a snapshot into this machine's home."""
    return update(source, home_of(registry))


def check(options: CheckOptions, registry: Path | None) -> tuple[Examined, AdvisoryPolicy]:
    """Compare lock files with the snapshot, by the policy of the registry if there is one."""
    try:
        settings = load_settings(registry)
    except NotARegistry:
        if registry is not None:
            raise
        policy = load_policy(options.policy).advisories if options.policy else AdvisoryPolicy()
        return examine(_locks(options.locks), home_of(None), policy), policy
    with open_workspace(settings) as workspace:
        return check_in(workspace, settings, options)


def check_in(
    workspace: Workspace, settings: Settings, options: CheckOptions | None = None
) -> tuple[Examined, AdvisoryPolicy]:
    """The same in an open clone of the registry."""
    chosen = options or CheckOptions()
    path = chosen.policy or workspace.root / "policy" / "verification.yaml"
    policy = load_policy(path).advisories
    locks = _locks(chosen.locks)
    examined = examine(locks, settings.home, policy)
    notes = tuple(_saved_with(workspace, locks))
    return examined.model_copy(update={"notes": notes}), policy


def home_of(registry: Path | None) -> Path:
    """This machine's home: WEIGHBRIDGE_HOME, else the registry's; raises NotARegistry."""
    home = os.environ.get("WEIGHBRIDGE_HOME", "")
    if registry is None and home:
        return Path(home).absolute()
    return load_settings(registry).home


def _locks(named: tuple[Path, ...]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The named lock files, else the one that this environment was built from, else all."""
    if named:
        return {str(path): read_lock(path) for path in named}
    there = [PROJECT / "requirements" / f"{name}.txt" for name in ("cpu", "gpu")]
    stamp = environment_stamp()
    built = [path for path in there if path.is_file() and sha256_file(path) == stamp]
    return {f"requirements/{path.name}": read_lock(path) for path in built or there}


def _saved_with(workspace: Workspace, locks: dict[str, dict[str, tuple[str, ...]]]) -> list[str]:
    """What each verified model says it was saved by, where this environment has another."""
    locked, layout = locked_outputs(workspace.root), Layout(workspace.root)
    there = [path for path in locked if path.endswith("/verification")]
    if there:
        workspace.restore(*there)
    lines = []
    for path in sorted(there):
        name = path.split("/")[1]
        record = read_record(layout.verification(name) / "verification.json", VerificationRecord)
        for package, version in record.saved_with.items():
            here = {v for lock in locks.values() for v in lock.get(package, ())}
            if version not in here:
                shown = ", ".join(sorted(here)) or "none"
                lines.append(_SAVED.format(name=name, package=package, version=version, here=shown))
    return lines
