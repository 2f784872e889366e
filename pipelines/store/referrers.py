"""Who still needs an object of the cache: releases, what origin holds now, people and live runs.

An object counts as needed when its address stands anywhere in a `dvc.lock` or `.dvc` file that
somebody may check out, and with a folder's listing every file that it lists. Addresses are found
by their form, so that no change in DVC's file format can make a needed object look free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.errors import DigestMismatch
from pipelines.store.git import git
from pipelines.store.remote import Remote, md5_of

IN_ADDRESS = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")
_ADDED = re.compile(r"^[ +]\s*(?:- )?(path|md5): (\S+)")


def referrers(root: Path, work_tree: Path | None, live: Iterable[Path]) -> dict[str, str]:
    """Every needed address, and why it is needed; `root` is a fresh clone of origin.

    Needed are the addresses at every tag (releases and stages), at the head of every branch of
    origin, in a person's work tree on this machine, and in the clones of live runs.
    """
    found: dict[str, str] = {}
    for commit, why in _commits(root):
        for address in _at_commit(root, commit):
            found.setdefault(address, why)
    trees = [(work_tree, f"work tree {work_tree}")] if work_tree else []
    trees += [(folder / "registry", f"running in {folder.name}") for folder in live]
    for tree, why in trees:
        for address in _in_tree(tree):
            found.setdefault(address, why)
    return found


def with_listed_files(needed: dict[str, str], objects: Path, remote: Remote) -> dict[str, str]:
    """`needed`, and the files of every folder in it, for the folder's reason.

    A listing that is not here is read from the remote. Raises DigestMismatch for one that is
    damaged here and not sound in the remote either: then nothing can be said of its files.
    """
    complete = dict(needed)
    for address, why in needed.items():
        if address.endswith(".dir"):
            for file in _listed(address, objects, remote):
                complete.setdefault(file, why)
    return complete


def listed_here(address: str, objects: Path) -> list[tuple[str, str]]:
    """(address, path) of the files that a sound listing in the cache names; else nothing."""
    path = objects / address[:2] / address[2:]
    data = path.read_bytes() if path.is_file() else b""
    if md5_of(data) != address.removesuffix(".dir"):
        return []
    return [(str(entry["md5"]), str(entry["relpath"])) for entry in json.loads(data)]


def past_names(root: Path) -> dict[str, str]:
    """Address to 'path (commit)' for every output that any commit of origin ever locked."""
    names: dict[str, str] = {}
    log = git(root, "log", "--all", "--format=commit %h", "--patch", "--unified=4",
              "--", "dvc.lock", "*.dvc")  # fmt: skip
    commit = path = ""
    for line in log.splitlines():
        if line.startswith("commit "):
            commit = line.removeprefix("commit ")
        elif match := _ADDED.match(line):
            if match[1] == "path":
                path = match[2]
            else:
                names.setdefault(match[2], f"{path} ({commit})")
    return names


def _commits(root: Path) -> Iterator[tuple[str, str]]:
    tags = git(root, "tag", "--list", "--format=%(refname:strip=2)").split()
    for tag in tags:
        yield f"refs/tags/{tag}", f"release {tag}"
    # origin/HEAD is another name of one of the branches.
    branches = git(
        root, "branch", "--remotes", "--format=%(if)%(symref)%(then)%(else)%(refname)%(end)"
    )
    for branch in branches.split():
        yield branch, f"{branch.removeprefix('refs/remotes/')} now"


def _at_commit(root: Path, commit: str) -> set[str]:
    names = git(root, "ls-tree", "-r", "--name-only", "-z", commit).split("\0")
    return {
        address
        for name in names
        if _locks(name)
        for address in IN_ADDRESS.findall(git(root, "show", f"{commit}:{name}"))
    }


def _in_tree(tree: Path) -> set[str]:
    """Addresses in the lock files of a work tree as they are now, and as its HEAD has them."""
    if not (tree / ".git").is_dir():
        return set()  # the clone is not there yet: it has not looked at any object
    found: set[str] = set()
    names = git(tree, "ls-files", "-z", "--cached", "--others", check=False).split("\0")
    for name in filter(_locks, names):
        path = tree / name
        if path.is_file():
            found.update(IN_ADDRESS.findall(path.read_text(encoding="utf-8", errors="replace")))
        found.update(IN_ADDRESS.findall(git(tree, "show", f"HEAD:{name}", check=False)))
    return found


def _locks(name: str) -> bool:
    file = name.rpartition("/")[2]
    return file == "dvc.lock" or (file.endswith(".dvc") and file != ".dvc")


def _listed(address: str, objects: Path, remote: Remote) -> list[str]:
    if here := listed_here(address, objects):
        return [file for file, _ in here]
    expected = address.removesuffix(".dir")
    data = remote.read(address)
    path = objects / address[:2] / address[2:]
    if data is None and not path.is_file():
        return []  # neither here nor there: no command could check this folder out any more
    if data is None or md5_of(data) != expected:
        fact = "other bytes here, and none in the remote that hash to it"
        raise DigestMismatch(path, f"md5 {expected}", fact)
    return [str(entry["md5"]) for entry in json.loads(data)]
