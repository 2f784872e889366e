"""From a reference to an entry of models.yaml, in a real registry with real stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.adding import add_reference
from flows.parameters import ModelForm
from pipelines.errors import AdapterWithoutBase, ConfigError, UnknownName
from pipelines.models_file import DeclaredUse, load_models
from pipelines.settings import Settings, load_settings
from pipelines.store.pull import pull_registry
from pipelines.store.registry import InitConfig, create_registry
from pipelines.store.workspace import open_workspace
from tests.tiny_families import adapter
from tests.tiny_models import make_tiny_llama

USE = DeclaredUse(purpose="research")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A registry that holds one ingested model, `base`."""
    root = tmp_path_factory.mktemp("adding")
    make_tiny_llama(root / "weights")
    config = InitConfig(
        registry=root / "registry", origin=root / "origin.git", remote=str(root / "remote")
    )
    settings = load_settings(create_registry(config), environ={})
    add(settings, "base", root / "weights")
    with open_workspace(settings) as workspace:
        workspace.reproduce("ingest@base")
        workspace.publish("ingest base")
    return settings


def add(settings: Settings, name: str, folder: Path, **more: object) -> None:
    form = {"name": name, "reference": f"file://{folder}", **more}
    add_reference(settings, ModelForm.model_validate(form), USE)
    pull_registry(settings, [])


def test_a_folder_is_pinned_and_ingested_without_being_read_again(
    settings: Settings, tmp_path: Path
) -> None:
    make_tiny_llama(tmp_path / "weights", seed=2)
    add(settings, "gone", tmp_path / "weights")
    (tmp_path / "weights").rename(tmp_path / "elsewhere")

    with open_workspace(settings) as workspace:
        assert workspace.reproduce("ingest@gone") == "ran"
        weights = workspace.root / "models/gone/model.safetensors"
        assert weights.stat().st_nlink > 1
        assert weights.read_bytes() == (tmp_path / "elsewhere/model.safetensors").read_bytes()


def test_an_adapter_gets_the_digest_of_the_base_that_is_named(
    settings: Settings, tmp_path: Path
) -> None:
    adapter(tmp_path / "adapter")

    add(settings, "adapted", tmp_path / "adapter", base="base")

    assert settings.work_tree is not None
    base = load_models(settings.work_tree).models["adapted"].base
    assert base is not None
    assert base.name == "base"
    assert load_models(settings.work_tree).models["base"].reference.endswith(base.digest)


@pytest.mark.parametrize(
    ("stated", "fact"),
    [("maker/base", "calls its base 'maker/base'"), ("/home/me/model", "a path on the machine")],
)
def test_an_adapter_whose_base_is_not_in_the_registry_is_refused(
    settings: Settings, tmp_path: Path, stated: str, fact: str
) -> None:
    adapter(tmp_path / "adapter", base=stated)

    with pytest.raises(AdapterWithoutBase, match=fact):
        add(settings, "lost", tmp_path / "adapter")
    assert settings.work_tree is not None
    assert "lost" not in load_models(settings.work_tree).models


def test_a_base_must_be_known_and_ingested(settings: Settings, tmp_path: Path) -> None:
    adapter(tmp_path / "adapter")
    make_tiny_llama(tmp_path / "weights", seed=3)
    add(settings, "later", tmp_path / "weights")

    with pytest.raises(UnknownName, match="never-heard"):
        add(settings, "lost", tmp_path / "adapter", base="never-heard")
    with pytest.raises(ConfigError, match=r"later was never ingested.*onboard later"):
        add(settings, "lost", tmp_path / "adapter", base="later")
