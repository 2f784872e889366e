"""Bring a user's work tree up to date without ever overwriting what they changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import CommandFailed, DigestMismatch, NotARegistry, UnknownName
from pipelines.models_file import load_models
from pipelines.settings import Settings
from pipelines.store import git
from pipelines.store.bucket_pull import fetch
from pipelines.store.dvc import Dvc
from pipelines.store.integrity import locked_outputs


def pull_registry(settings: Settings, names: Sequence[str]) -> list[str]:
    """Fast-forward to origin, then fetch all records and the weights of `names`.

    Returns the paths that were asked of DVC. Raises NotARegistry without a work tree, UnknownName
    for a name that models.yaml lacks, CommandFailed where local commits or edits are in the way
    (git says which), and DigestMismatch for what the remote lacks or holds as other bytes.
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
    wanted = {
        path: address
        for path, address in locked_outputs(tree).items()
        if path.startswith("evidence/") or path.removeprefix("models/") in names
    }
    if wanted:
        _pull(tree, settings.home, wanted)
    return list(wanted)


def _pull(tree: Path, home: Path, wanted: dict[str, str]) -> None:
    is_here = fetch(tree, home, list(wanted))
    try:
        Dvc(tree)("checkout" if is_here else "pull", *wanted)
    except CommandFailed as error:
        lines = {line.strip() for line in error.output.splitlines()}
        for path in lines & set(wanted):  # those that DVC could not check out
            fact = "nothing in the remote that hashes to it"
            raise DigestMismatch(tree / path, f"md5 {wanted[path]}", fact) from error
        raise
