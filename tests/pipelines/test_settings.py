from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import NotARegistry
from pipelines.settings import find_registry, load_settings
from pipelines.store import git


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The least that is a registry: a git tree with an origin, .dvc and models.yaml."""
    root = tmp_path / "registry"
    (root / ".dvc").mkdir(parents=True)
    (root / "models.yaml").write_text("models: {}\n")
    git.git(root, "init", "--quiet")
    git.git(root, "remote", "add", "origin", "/somewhere/origin.git")
    return root


def test_a_registry_is_found_from_any_folder_in_it(tree: Path) -> None:
    inside = tree / "evidence" / "deep"
    inside.mkdir(parents=True)
    assert find_registry(inside) == tree
    settings = load_settings(inside, {})
    assert (settings.origin, settings.home) == ("/somewhere/origin.git", tree / ".weighbridge")


def test_a_folder_that_is_no_registry_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotARegistry, match=r"weighbridge init DIR"):
        load_settings(tmp_path, {})
    with pytest.raises(NotARegistry, match="absent"):
        load_settings(None, {"WEIGHBRIDGE_REGISTRY": str(tmp_path / "absent")})


def test_a_worker_without_a_work_tree_has_origin_and_home(tmp_path: Path) -> None:
    environ = {
        "WEIGHBRIDGE_REGISTRY": "ssh://git@example/registry.git",
        "WEIGHBRIDGE_HOME": str(tmp_path),
    }
    settings = load_settings(None, environ)
    assert settings.work_tree is None
    assert settings.cache == tmp_path / "cache"


def test_the_signing_key_can_lie_elsewhere(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_SIGNING_KEY", "/secrets/key")
    assert load_settings(tree, {}).signing_key == Path("/secrets/key")
