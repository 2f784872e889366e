"""The only caller of git."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.subprocesses import run

# What git says of a ref that somebody else moved first, here or at the other end.
_RACES = ("[rejected]", "cannot lock ref", "failed to update ref", "incorrect old value")


def git(tree: Path, *arguments: str, check: bool = True) -> str:
    """Run git in `tree` and return what it printed; raises CommandFailed when `check`."""
    environ = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }
    # Commits made here carry Weighbridge's name, unless the environment names somebody.
    for role in ("AUTHOR", "COMMITTER"):
        environ.setdefault(f"GIT_{role}_NAME", "weighbridge")
        environ.setdefault(f"GIT_{role}_EMAIL", "weighbridge@localhost")
    for inherited in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environ.pop(inherited, None)
    return run(["git", *arguments], cwd=tree, env=environ, check=check).stdout


def head(tree: Path) -> str:
    """The commit that `tree` has checked out, as 40 hex digits."""
    return git(tree, "rev-parse", "HEAD").strip()


def show(tree: Path, commit: str, path: str) -> bytes:
    """The bytes of a text file as `commit` holds it."""
    return git(tree, "show", f"{commit}:{path}").encode()


def is_clean(tree: Path) -> bool:
    """Whether tracked files are as committed (untracked ones do not count)."""
    return not git(tree, "status", "--porcelain", "--untracked-files=no").strip()


def commit_all(tree: Path, message: str) -> bool:
    """Commit every change that git does not ignore; False when there was none."""
    git(tree, "add", "--all")
    if not git(tree, "status", "--porcelain").strip():
        return False
    git(tree, "commit", "--quiet", "--no-verify", "-m", message)
    return True


def push(tree: Path, *refs: str) -> bool:
    """Push HEAD to main, and `refs` with it, all or nothing; False when origin moved on."""
    arguments = ["push", "--porcelain", "--atomic", "origin", "HEAD:refs/heads/main", *refs]
    output = git(tree, *arguments, check=False)
    refused = [line for line in output.splitlines() if line.startswith("!\t")]
    if any(reason in line for line in refused for reason in _RACES):
        return False
    if refused or "\nDone" not in output:
        git(tree, *arguments)  # not a race: let the error speak for itself
    return True


def reset_to_origin(tree: Path) -> None:
    """Make a disposable clone equal to what origin holds now."""
    git(tree, "fetch", "--quiet", "--tags", "origin")
    git(tree, "reset", "--quiet", "--hard", "origin/main")
