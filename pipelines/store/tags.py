"""Releases as git tags in GTO's form, so that GTO and DVC read them.

`NAME@v1.2.0` registers a version of the release line NAME; `NAME#STAGE#N` assigns the version at
that commit to a stage, and the highest N is what holds. A trailing `!` undoes. The tags say where
a release record lies; the signed record is what a consumer believes.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.canonical import Frozen
from pipelines.store.git import git

_VERSION = re.compile(r"(?P<line>[a-z0-9-]+)@v(?P<major>\d+)\.(?P<minor>\d+)\.(?P<patch>\d+)")
_STAGE = re.compile(r"(?P<line>[a-z0-9-]+)#(?P<stage>[a-z0-9-]+)#(?P<count>\d+)(?P<undo>!?)")


class Assignment(Frozen):
    """One stage tag: the release line's `stage` points at `commit`."""

    line: str
    stage: str
    count: int
    commit: str


def list_tags(tree: Path) -> dict[str, str]:
    """Every tag and the commit that it points at."""
    output = git(tree, "tag", "--list", "--format=%(refname:strip=2) %(*objectname) %(objectname)")
    tags: dict[str, str] = {}
    for line in output.splitlines():
        name, *objects = line.split()
        tags[name] = objects[0]  # an annotated tag's commit comes first; a light one has only it
    return tags


def assignment(tree: Path, line: str, stage: str) -> Assignment | None:
    """The assignment that holds for a stage of a release line, or None."""
    found: list[tuple[int, bool, str]] = []
    for tag, commit in list_tags(tree).items():
        match = _STAGE.fullmatch(tag)
        if match and match["line"] == line and match["stage"] == stage:
            found.append((int(match["count"]), bool(match["undo"]), commit))
    if not found:
        return None
    count, undone, commit = max(found)
    return None if undone else Assignment(line=line, stage=stage, count=count, commit=commit)


def stages_of(tree: Path) -> list[tuple[str, str]]:
    """Every (release line, stage) that was ever assigned, sorted."""
    matches = (_STAGE.fullmatch(tag) for tag in list_tags(tree))
    return sorted({(match["line"], match["stage"]) for match in matches if match})


def next_version(tree: Path, line: str) -> str:
    """The next minor version of a release line: v1.0.0, then v1.1.0 and so on."""
    found = [
        (int(match["major"]), int(match["minor"]))
        for match in (_VERSION.fullmatch(tag) for tag in list_tags(tree))
        if match and match["line"] == line
    ]
    major, minor = max(found, default=(1, -1))
    return f"v{major}.{minor + 1}.0"


def next_count(tree: Path, line: str) -> int:
    """The next N of NAME#STAGE#N (GTO counts all stages of a line together)."""
    matches = (_STAGE.fullmatch(tag) for tag in list_tags(tree))
    return 1 + max((int(m["count"]) for m in matches if m and m["line"] == line), default=0)


def tag(tree: Path, name: str, message: str) -> str:
    """Create an annotated tag at HEAD; returns the ref to push."""
    git(tree, "tag", "--annotate", "-m", message, name)
    return f"refs/tags/{name}"
