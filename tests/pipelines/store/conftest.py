"""A small registry with a real git origin and a real DVC remote, and stages that take no time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.settings import Settings
from pipelines.store import git
from pipelines.store.dvc import Dvc

GRAPH = """\
stages:
  copy:
    foreach: {a: 1, b: 2}
    do:
      cmd: mkdir -p out && date +%s%N >> runs.log && cp in-${key}.txt out/${key}.txt
      deps: ["in-${key}.txt"]
      outs: ["out/${key}.txt"]
"""


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """origin.git, dvc-remote and an empty home, made once and copied for each test."""
    base = tmp_path_factory.mktemp("toy")
    tree = base / "tree"
    tree.mkdir()
    git.git(tree, "init", "--quiet", "--initial-branch=main")
    Dvc(tree)("init", "--quiet")
    (tree / "dvc.yaml").write_text(GRAPH)
    (tree / "models.yaml").write_text("models: {}\n")
    (tree / ".gitignore").write_text("/runs.log\n")
    for key in "ab":
        (tree / f"in-{key}.txt").write_text(f"{key}\n")
    (tree / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = store\n"
        "['remote \"store\"']\n    url = ../../../../dvc-remote\n    verify = true\n"
    )
    git.commit_all(tree, "toy")
    git.git(base, "clone", "--quiet", "--bare", str(tree), str(base / "origin.git"))
    shutil.rmtree(tree)
    return base


@pytest.fixture
def toy(toy_template: Path, tmp_path: Path) -> Callable[[str], Settings]:
    """Settings of a machine called by a name: same origin and remote, a home of its own."""
    shutil.copytree(toy_template, tmp_path / "toy")
    remote = (tmp_path / "toy" / "dvc-remote").as_posix()

    def machine(name: str) -> Settings:
        origin = tmp_path / "toy" / "origin.git"
        return Settings(origin=str(origin), home=tmp_path / name)

    with_remote = tmp_path / "edit"
    git.git(tmp_path, "clone", "--quiet", str(tmp_path / "toy" / "origin.git"), str(with_remote))
    config = with_remote / ".dvc" / "config"
    config.write_text(config.read_text().replace("../../../../dvc-remote", remote))
    git.commit_all(with_remote, "remote")
    assert git.push(with_remote)
    return machine
