"""Edits of models.yaml keep what a person wrote and refuse what would change a name's meaning."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.code_digest import PROJECT
from pipelines.errors import BadName, ConfigError, NameTaken, UnknownName
from pipelines.models_edit import add_evaluations, add_model, add_tuning, set_gate
from pipelines.models_file import (
    Baseline,
    DeclaredUse,
    EvaluationEntry,
    GateEntry,
    ModelEntry,
    TuningEntry,
    load_models,
)

ENTRY = ModelEntry(reference=f"pypi://some-model==1.0#sha256={'a' * 64}")
TUNING = TuningEntry(base="base", recipe="lora", dataset="mail")
USE = DeclaredUse()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A registry's folder with one suite, recipe, data set and policy, and an empty models.yaml."""
    shutil.copy(PROJECT / "models.yaml", tmp_path)
    for folder in ("suites/general", "suites/mail", "datasets/mail", "recipes", "policy/gates"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "recipes" / "lora.yaml").touch()
    (tmp_path / "policy" / "gates" / "default.yaml").touch()
    return tmp_path


def gate(digest: str) -> GateEntry:
    return GateEntry(
        release="mail", policy="default", baseline=Baseline(name="base", digest=digest)
    )


def test_what_is_added_is_read_back_by_the_strict_reader(root: Path) -> None:
    add_model(root, "base", ENTRY, USE)
    add_tuning(root, "tuned", TUNING, DeclaredUse(purpose="research", territories=("DE",)))
    assert add_evaluations(root, "tuned", ["general", "mail"]) == ["tuned-general", "tuned-mail"]
    set_gate(root, "tuned", gate("b" * 64))
    models = load_models(root)
    assert models.models == {"base": ENTRY}
    assert models.tunings == {"tuned": TUNING}
    assert models.uses["tuned"] == DeclaredUse(purpose="research", territories=("DE",))
    assert models.evaluations["tuned-mail"] == EvaluationEntry(model="tuned", suite="mail")
    assert models.gates["tuned"] == gate("b" * 64)


def test_comments_and_entries_written_by_hand_stay(root: Path) -> None:
    hand = f"""\
# Owner: platform team
models:
  first:  # do not touch before the audit
    reference: "{ENTRY.reference}"
uses:
  first: {{purpose: research}}
"""
    (root / "models.yaml").write_text(hand)
    add_model(root, "second", ENTRY, USE)
    text = (root / "models.yaml").read_text()
    for line in hand.splitlines():
        assert line in text
    assert set(load_models(root).models) == {"first", "second"}


def test_adding_the_same_again_changes_nothing(root: Path) -> None:
    assert add_model(root, "base", ENTRY, USE)
    add_evaluations(root, "base", ["general"])
    before = (root / "models.yaml").read_bytes()
    assert not add_model(root, "base", ENTRY, USE)
    assert add_evaluations(root, "base", ["general"]) == ["base-general"]
    assert (root / "models.yaml").read_bytes() == before


def test_a_name_that_was_never_ingested_may_get_another_source(root: Path) -> None:
    add_model(root, "base", ENTRY, USE)
    other = ModelEntry(reference=f"pypi://other==1.0#sha256={'c' * 64}")

    assert add_model(root, "base", other, USE)

    assert load_models(root).models["base"] == other


def test_name_does_not_move_to_other_weights(root: Path) -> None:
    add_model(root, "base", ENTRY, USE)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  ingest@base: {cmd: ingest}\n")
    before = (root / "models.yaml").read_bytes()
    other = ModelEntry(reference=f"pypi://other==1.0#sha256={'c' * 64}")
    with pytest.raises(NameTaken, match="some-model"):
        add_model(root, "base", other, USE)
    with pytest.raises(NameTaken, match="purpose: commercial"):
        add_model(root, "base", ENTRY, DeclaredUse(purpose="research"))
    assert (root / "models.yaml").read_bytes() == before


def test_name_of_a_tuning_is_not_given_to_a_model(root: Path) -> None:
    add_model(root, "base", ENTRY, USE)
    add_tuning(root, "tuned", TUNING, USE)
    with pytest.raises(NameTaken, match="a tuning"):
        add_model(root, "tuned", ENTRY, USE)
    with pytest.raises(NameTaken, match="a model from outside"):
        add_tuning(root, "base", TUNING, USE)


def test_evaluation_written_by_hand_is_not_added_twice(root: Path) -> None:
    add_model(root, "base", ENTRY, USE)
    text = (root / "models.yaml").read_text()
    hand = "evaluations:\n  my-own-key: {model: base, suite: general}\n"
    (root / "models.yaml").write_text(text.replace("evaluations: {}\n", hand))
    assert add_evaluations(root, "base", ["general", "mail"]) == ["my-own-key", "base-mail"]


def test_pin_moves_when_the_baseline_does(root: Path) -> None:
    add_model(root, "base", ENTRY, USE)
    add_tuning(root, "tuned", TUNING, USE)
    assert set_gate(root, "tuned", gate("b" * 64))
    assert not set_gate(root, "tuned", gate("b" * 64))
    assert set_gate(root, "tuned", gate("d" * 64))
    assert load_models(root).gates["tuned"].baseline.digest == "d" * 64


def test_names_that_the_registry_does_not_hold_are_refused(root: Path) -> None:
    with pytest.raises(UnknownName, match=r"no suite named 'poetry'.* general, mail"):
        add_evaluations(root, "base", ["poetry"])
    with pytest.raises(UnknownName, match="no model or tuning named 'base'"):
        add_evaluations(root, "base", ["general"])
    with pytest.raises(UnknownName, match="no model or tuning named 'base'"):
        add_tuning(root, "tuned", TUNING, USE)
    with pytest.raises(UnknownName, match=r"no recipe named 'big'.* lora"):
        add_tuning(root, "tuned", TUNING.model_copy(update={"recipe": "big"}), USE)
    with pytest.raises(UnknownName, match="no data set named 'chat'"):
        add_tuning(root, "tuned", TUNING.model_copy(update={"dataset": "chat"}), USE)
    with pytest.raises(UnknownName, match="no model or tuning named 'tuned'"):
        set_gate(root, "tuned", gate("b" * 64))
    with pytest.raises(UnknownName, match="no gate policy named 'lax'"):
        set_gate(root, "tuned", gate("b" * 64).model_copy(update={"policy": "lax"}))


def test_name_that_dvc_cannot_carry_is_refused(root: Path) -> None:
    with pytest.raises(BadName, match="qwen2-5-7b"):
        add_model(root, "qwen2.5-7b", ENTRY, USE)


def test_broken_file_is_not_edited(root: Path) -> None:
    (root / "models.yaml").write_text("models: {some: {reference: x, colour: red}}\n")
    with pytest.raises(ConfigError, match="unknown key"):
        add_model(root, "base", ENTRY, USE)
    assert "base" not in (root / "models.yaml").read_text()
