"""Which data a model was tuned on follows from models.yaml, and is held to the training record."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.training_sets import trained_on
from pipelines.canonical import write_record
from pipelines.errors import WrongKindOfPath
from pipelines.models_file import ModelsFile
from pipelines.records import TrainingRecord
from pipelines.store.registry import Layout

MODELS = ModelsFile.model_validate(
    {
        "models": {"base": {"reference": f"hf://a/b@{'0' * 40}"}},
        "tunings": {
            "first": {"base": "base", "recipe": "small", "dataset": "notes"},
            "second": {"base": "first", "recipe": "small", "dataset": "letters"},
        },
        "uses": {"base": {}, "first": {}, "second": {}},
    }
)


def write_training(layout: Layout, name: str) -> None:
    record = TrainingRecord(
        name=name,
        weight_digest="a" * 64,
        adapter_digest="b" * 64,
        base="first",
        base_digest="c" * 64,
        recipe_sha256="d" * 64,
        dataset="letters",
        dataset_sha256="e" * 64,
        code_digest="f" * 64,
        rows=1,
        rows_without_loss=0,
        steps=1,
        losses=(1.0,),
        template_sha256="",
        data_checks_sha256="0" * 64,
        parity_max_logprob_difference=0.0,
        settings={},
        tools={},
    )
    write_record(layout.origin(name) / "training.json", record)


def test_every_tuning_on_the_way_counts_and_the_last_is_pinned(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_training(layout, "second")
    sets = trained_on(tmp_path, MODELS, "second")
    assert [(one.name, one.sha256) for one in sets] == [("letters", "e" * 64), ("notes", "")]
    assert sets[1].folder == tmp_path / "datasets" / "notes"


def test_a_publishers_weights_have_no_training_set(tmp_path: Path) -> None:
    assert trained_on(tmp_path, MODELS, "base") == ()


def test_a_tuning_without_its_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath):
        trained_on(tmp_path, MODELS, "second")
