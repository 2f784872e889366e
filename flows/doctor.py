"""`weighbridge doctor`: does this machine match what the registry names?"""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

from pipelines.canonical import Frozen
from pipelines.code_digest import check_code, write_code_file
from pipelines.errors import CodeDiffers
from pipelines.settings import Settings
from pipelines.store.registry import STAGES
from pipelines.store.upgrade import differences
from pipelines.store.workspace import Workspace, open_workspace


class Examination(Frozen):
    """One thing that was looked at."""

    check: str
    passed: bool
    fact: str


def examine(settings: Settings) -> list[Examination]:
    """Look at code, environment, programs and the signing key; nothing is changed."""
    found = []
    with open_workspace(settings) as workspace:
        for stage in STAGES:
            try:
                fact, passed = check_code(workspace.root, stage)[:12], True
            except CodeDiffers as error:
                fact, passed = str(error), False
            found.append(Examination(check=f"code of {stage}", passed=passed, fact=fact))
        found.append(_release_graph(workspace.root))
        found.append(_advisories(workspace, settings))
    for program in ("git", "ssh-keygen"):
        where = shutil.which(program)
        found.append(
            Examination(check=program, passed=where is not None, fact=where or "not on PATH")
        )
    found.append(_sqlalchemy())
    key = settings.signing_key
    found.append(
        Examination(
            check="signing key",
            passed=key.is_file(),
            fact=str(key) if key.is_file() else f"{key} is absent: this machine cannot promote",
        )
    )
    return found


def accept_code(settings: Settings) -> list[str]:
    """Make the registry name the installed code; returns the stages whose code file changed."""
    accepted: list[str] = []

    def apply(root: Path) -> list[str]:
        accepted[:] = [stage for stage in STAGES if write_code_file(root, stage)]
        return []

    with open_workspace(settings) as workspace:
        workspace.change("Accept the installed code", apply)
    return accepted


def _release_graph(root: Path) -> Examination:
    """Whether dvc.yaml and the files that it needs are those of the installed version."""
    behind = [change.path for change in differences(root) if not change.path.startswith("code/")]
    fact = f"{', '.join(behind)}: see `weighbridge upgrade`" if behind else "as installed"
    return Examination(check="release graph", passed=not behind, fact=fact)


def _advisories(workspace: Workspace, settings: Settings) -> Examination:
    """Known vulnerabilities of this environment, as `weighbridge advisories check` finds them."""
    from flows.patches import check_in
    from pipelines.advisories import decides

    examined, policy = check_in(workspace, settings)
    named = [
        f"{match.package} {match.version}: {match.ids[0]} ({match.severity})"
        for match in examined.matches
        if decides(match, policy)
    ]
    counted = f"{len(examined.matches)} known, {len(named)} refused by the policy"
    facts = [*examined.problems, *named] or [counted]
    return Examination(check="advisories", passed=examined.passed, fact="; ".join(facts))


def _sqlalchemy() -> Examination:
    """SQLAlchemy 2.1 stops Prefect's scheduler without an error, so the version is looked at."""
    version = metadata.version("sqlalchemy")
    return Examination(
        check="sqlalchemy", passed=version.startswith("2.0."), fact=f"{version}, 2.0.x is needed"
    )
