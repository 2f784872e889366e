"""Bring a user's work tree up to date without ever overwriting what they changed."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.errors import NotARegistry, UnknownName
from pipelines.models_file import load_models
from pipelines.settings import Settings
from pipelines.store import git
from pipelines.store.dvc import Dvc
from pipelines.store.integrity import locked_outputs


def pull_registry(settings: Settings, names: Sequence[str]) -> list[str]:
    """Fast-forward to origin, then fetch all records and the weights of `names`.

    Returns the paths that were asked of DVC. Raises NotARegistry without a work tree, UnknownName
    for a name that models.yaml lacks, and CommandFailed where local commits or edits are in the way
    (git says which).
    """
    tree = settings.work_tree
    if tree is None:
        raise NotARegistry(settings.home)
    git.git(tree, "fetch", "--quiet", "--tags", "origin")
    git.git(tree, "merge", "--quiet", "--ff-only", "origin/main")
    known = load_models(tree).weights()
    for name in names:
        if name not in known:
            raise UnknownName(tree / "models.yaml", "model or tuning", name, known)
    wanted = [
        path
        for path in locked_outputs(tree)
        if path.startswith("evidence/") or path.removeprefix("models/") in names
    ]
    if wanted:
        Dvc(tree)("pull", "--allow-missing", *wanted)
    return wanted
