"""A shadow run from end to end: a real registry, a scripted engine, evidence in git."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from released_model import release_weights, verified_weights

from flows.costing import publish_cost
from flows.shadowing import run_shadow
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.errors import (
    DigestMismatch,
    JobNotFinished,
    NotVerified,
    UnknownName,
    UnusableEvidence,
)
from pipelines.settings import Settings
from pipelines.store.registry import Layout
from pipelines.store.workspace import open_workspace

BATCH_TESTS = Path(__file__).parent.parent / "pipelines" / "batch"
sys.path.append(str(BATCH_TESTS))

from scripted_engine import SCRIPT, Script  # noqa: E402
from tiny import SCHEMA, make_tiny_model  # noqa: E402

from pipelines.batch.job import BatchJob  # noqa: E402


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BATCH_TESTS))
    monkeypatch.setenv(SCRIPT, Script().model_dump_json())
    scripted_run = partial(run_batch, worker_module="scripted_engine")
    monkeypatch.setattr("flows.shadowing.run_batch", scripted_run)


def finished(tmp_path: Path, model: ModelOnDisk) -> str:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(30):
        (corpus / f"{number}.txt").write_text(f"Document {number}.")
    job = BatchJob.model_validate(
        {
            "name": "colours",
            "model": model.name,
            "corpus": {"path": str(corpus)},
            "classification": "confidential",
            "prompt": {"template": "{{ text }}"},
            "output_schema": SCHEMA,
            "sampling": {"max_tokens": 32},
            "output": str(tmp_path / "out"),
        }
    )
    run_batch(job, model, worker_module="scripted_engine")
    return job.output


def _changed(weights: Path, target: Path) -> Path:
    """The same model with another digest."""
    shutil.copytree(weights, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "tuned": True}))
    return target


def test_a_candidate_is_compared_and_the_record_published(
    toy: Settings, tmp_path: Path, scripted: None
) -> None:
    tiny = make_tiny_model(tmp_path / "tiny")
    release = release_weights(toy, tiny.weights, "first", "colours")
    model = tiny.model_copy(
        update={"name": "colours@production", "weight_digest": release.weight_digest}
    )
    output = finished(tmp_path, model)
    digest = verified_weights(toy, _changed(tiny.weights, tmp_path / "other"), "second")
    with pytest.raises(UnknownName):
        run_shadow(toy, output, "third", 10, publish=False)
    with pytest.raises(JobNotFinished):
        run_shadow(toy, str(tmp_path / "nowhere"), "second", 10, publish=False)
    with pytest.raises(NotVerified, match="verification"):
        run_shadow(toy, output, "first", 10, publish=False)
    found = run_shadow(toy, output, "second", 10, publish=True)
    assert (found.record.documents, found.record.weight_digest) == (10, digest)
    assert found.record.production.weight_digest == release.weight_digest
    assert not list(toy.home.glob("shadow/*/documents.jsonl"))
    with open_workspace(toy) as workspace:
        folder = Layout(workspace.root).shadow("second")
        published = json.loads((folder / "shadow.json").read_text())
        assert published == json.loads(found.record.model_dump_json())
        assert (folder.parent / "shadow.run.json").is_file()
    again = run_shadow(toy, output, "second", 10, publish=True)
    assert again.record == found.record


def test_what_a_candidate_costs_is_measured_on_its_shadow_run(
    toy: Settings, tmp_path: Path, scripted: None
) -> None:
    tiny = make_tiny_model(tmp_path / "tiny")
    release = release_weights(toy, tiny.weights, "first", "colours")
    model = tiny.model_copy(
        update={"name": "colours@production", "weight_digest": release.weight_digest}
    )
    output = finished(tmp_path, model)
    price = (3.6, "a price list", "a machine")
    record = publish_cost(toy, "first", output, price)
    assert record.weight_digest == release.weight_digest
    tokens = record.prompt_tokens + record.generated_tokens
    assert record.usd_per_mtok == pytest.approx(3.6 / 3600 * record.seconds / tokens * 1e6)
    with open_workspace(toy) as workspace:
        published = json.loads((workspace.root / "costs" / "first.json").read_text())
        assert published == json.loads(record.model_dump_json())
    verified_weights(toy, _changed(tiny.weights, tmp_path / "other"), "second")
    with pytest.raises(DigestMismatch, match="weights that answered"):
        publish_cost(toy, "second", output, price)
    with pytest.raises(UnknownName):
        publish_cost(toy, "third", output, price)
    run = Path(output) / "run.json"
    info = json.loads(run.read_text())
    run.write_text(json.dumps({**info, "details": {**info["details"], "rows_generated": 3}}))
    with pytest.raises(UnusableEvidence, match="generated 3 of 30 rows"):
        publish_cost(toy, "first", output, price)
