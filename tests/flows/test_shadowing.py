"""A shadow run from end to end: a real registry, a scripted engine, evidence in git."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from released_model import release_weights, verified_weights

from flows.shadowing import run_shadow
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.errors import JobNotFinished, NotVerified, UnknownName
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


def test_a_candidate_is_compared_and_the_record_published(
    toy: Settings, tmp_path: Path, scripted: None
) -> None:
    tiny = make_tiny_model(tmp_path / "tiny")
    release = release_weights(toy, tiny.weights, "first", "colours")
    model = tiny.model_copy(
        update={"name": "colours@production", "weight_digest": release.weight_digest}
    )
    output = finished(tmp_path, model)
    other = tmp_path / "other"
    shutil.copytree(tiny.weights, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "tuned": True}))
    digest = verified_weights(toy, other, "second")
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
