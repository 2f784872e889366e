"""An old registry is brought to the installed version, and nothing of the user's is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.settings import Settings, load_settings
from pipelines.store import git
from pipelines.store.registry import InitConfig, create_registry
from pipelines.store.upgrade import differences, upgrade_registry
from pipelines.store.workspace import open_workspace

OWN_POLICY = "# ours, written long ago\nallowed_formats: [safetensors]\n"


def make(base: Path, age: bool) -> Settings:
    """A registry; an aged one has the graph, the code and the folders of an earlier version."""
    config = InitConfig(
        registry=base / "registry", origin=base / "origin.git", remote=str(base / "remote")
    )
    create_registry(config, _age if age else None)
    return load_settings(base / "registry")


def _age(root: Path) -> None:
    graph = (root / "dvc.yaml").read_text()
    lines = [line for line in graph.splitlines(True) if "policy/waivers" not in line]
    (root / "dvc.yaml").write_text("".join(lines))
    (root / "policy/waivers/README.md").unlink()
    (root / "policy/waivers").rmdir()
    (root / "policy/verification.yaml").write_text(OWN_POLICY)
    (root / "code/verify.json").write_text("{}")
    (root / "suites/smoke/README.md").unlink()


def test_a_new_registry_has_nothing_to_upgrade(tmp_path: Path) -> None:
    assert upgrade_registry(make(tmp_path, age=False), applying=False) == []


def test_an_old_registry_is_upgraded_and_the_users_files_stay(tmp_path: Path) -> None:
    settings = make(tmp_path, age=True)
    shown = upgrade_registry(settings, applying=False)
    assert {(c.path, c.kind) for c in shown} == {
        ("code/verify.json", "replaced"),
        ("dvc.yaml", "replaced"),
        ("policy/waivers/README.md", "added"),
    }
    assert "+        - policy/waivers" in next(c.diff for c in shown if c.path == "dvc.yaml")
    assert upgrade_registry(settings, applying=False) == shown, "showing changes nothing"

    assert upgrade_registry(settings, applying=True) == shown

    assert upgrade_registry(settings, applying=True) == []
    with open_workspace(settings) as workspace:
        assert differences(workspace.root) == []
        assert (workspace.root / "policy/verification.yaml").read_text() == OWN_POLICY
        assert not (workspace.root / "suites/smoke/README.md").exists()


def test_a_graph_with_stages_of_its_own_is_not_replaced(tmp_path: Path) -> None:
    settings = make(tmp_path, age=False)
    assert settings.work_tree is not None
    graph = settings.work_tree / "dvc.yaml"
    graph.write_text(graph.read_text() + "  mine:\n    cmd: date\n")
    git.commit_all(settings.work_tree, "A stage of our own")
    assert git.push(settings.work_tree)
    with pytest.raises(ConfigError, match="stages that are not ours: \\['mine'\\]"):
        upgrade_registry(settings, applying=True)
