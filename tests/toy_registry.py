"""Registries whose release graph is the real one and whose stages take no time."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.settings import Settings, load_settings
from pipelines.store import git
from pipelines.store.registry import InitConfig, create_registry

TOY_STAGES = Path(__file__).with_name("toy_stages.py")
TRAITS = {"verify": "unverified", "evaluate": "broken", "gate": "worse"}


def make(base: Path) -> Path:
    """A registry in `base` with its origin and its DVC remote beside it."""
    config = InitConfig(
        registry=base / "registry", origin=base / "origin.git", remote=str(base / "remote")
    )
    create_registry(config, _fill)
    return base


def copied(template: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A registry copied with its origin and remote, named by the environment."""
    shutil.copytree(template, base, symlinks=True)
    for file in ("registry/.git/config", "registry/.dvc/config"):
        path = base / file
        path.write_text(path.read_text().replace(str(template), str(base)))
    _publish(base / "registry", lambda root: None)
    monkeypatch.setenv("WEIGHBRIDGE_REGISTRY", str(base / "registry"))
    monkeypatch.delenv("WEIGHBRIDGE_HOME", raising=False)
    return load_settings()


def behave(settings: Settings, trait: str, *names: str) -> None:
    """Say what models are like: behave(settings, "worse", "bad"); see toy_stages."""
    assert settings.work_tree is not None
    _publish(settings.work_tree, lambda root: (root / "toy" / trait).write_text("\n".join(names)))


def _fill(root: Path) -> None:
    graph = (root / "dvc.yaml").read_text()
    own = f"cmd: exec {sys.executable} {TOY_STAGES}"
    graph = graph.replace("cmd: exec weighbridge stage", own)
    for stage, trait in TRAITS.items():
        graph = graph.replace(f"- code/{stage}.json", f"- code/{stage}.json\n        - toy/{trait}")
    (root / "dvc.yaml").write_text(graph)
    for folder in ("toy", "datasets/mail", "recipes", "suites/smoke"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for trait in TRAITS.values():
        (root / "toy" / trait).touch()
    (root / "suites/smoke/suite.yaml").write_text("{}\n")
    (root / "datasets/mail/train.jsonl").write_text("{}\n")
    (root / "recipes/lora.yaml").write_text("{}\n")


def _publish(tree: Path, edit: Callable[[Path], object]) -> None:
    """Commit an edit of the registry's work tree and push it, as a person would."""
    edit(tree)
    git.commit_all(tree, "Edit")
    git.git(tree, "pull", "--quiet", "--rebase", "origin", "main")
    assert git.push(tree)
