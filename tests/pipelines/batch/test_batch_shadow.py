"""Shadow runs: a candidate beside production, on production's own documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from finishing import finish
from scripted_engine import Script

from pipelines.batch.finished import Finished, finished_job
from pipelines.batch.job import BatchJob
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.shadow import (
    compare,
    disagreements,
    sample,
    shadow_job,
    shortfalls,
    write_documents,
)
from pipelines.errors import JobNotFinished, ShadowImpossible
from pipelines.records import ShadowRequirement


@pytest.fixture
def production(
    make_job: Callable[..., BatchJob], tiny_model: ModelOnDisk, corpus: Path
) -> Finished:
    (corpus / "document-100.txt").write_bytes(b"\xff")  # an error row: nothing to compare
    (corpus / "document-101.txt").write_text("This is document 1.\n")  # a duplicate
    job = make_job()
    finish(job, tiny_model)
    return finished_job(job.output)


def shadow(production: Finished, model: ModelOnDisk, folder: Path, script: Script) -> Finished:
    documents = folder / "documents.jsonl"
    write_documents(production.plan.job, sample(production, 20), documents)
    job = shadow_job(production.plan.job, "candidate", documents, folder / "shadow")
    finish(job, model, script)
    return finished_job(job.output)


def test_a_sample_is_the_same_each_time_and_holds_what_could_be_asked(production: Finished) -> None:
    chosen = sample(production, 20)
    assert [r.document_id for r in chosen] == [r.document_id for r in sample(production, 20)]
    assert len({row.document_id for row in chosen}) == 20
    names = {row.document_id for row in sample(production, 1000)}
    assert len(names) == 40
    assert not names & {"document-100.txt", "document-101.txt"}


def test_a_model_agrees_with_itself(
    production: Finished, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    rows = {row.document_id: row.row for row in sample(production, 20)}
    # The scripted engine answers by row number: give each document production's own answer.
    said = {row["document_id"]: row["raw_text"] for row in production.rows()}
    answers = {place: (said[name],) for place, name in enumerate(rows)}
    record = compare(
        "candidate", production, shadow(production, tiny_model, tmp_path, Script(answers=answers))
    )
    assert (record.rows, record.agreed, record.unpaired) == (20, 20, 0)
    assert record.agreement == record.similarity == record.schema_validity == 1.0
    assert record.agreement_interval[0] == pytest.approx(20 / (20 + 1.96**2), abs=1e-3)
    assert {field.agreed for field in record.fields} == {20}
    assert record.length_ratio == 1.0


def test_errors_and_refusals_of_a_candidate_are_no_agreement(
    production: Finished, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    answers = dict.fromkeys(range(5), ("I'm sorry, but I can't help with that.",) * 2)
    answers |= {n: (json.dumps({"colour": "purple"}),) * 2 for n in range(5, 8)}
    made = shadow(production, tiny_model, tmp_path, Script(answers=answers))
    record = compare("candidate", production, made)
    assert record.candidate.schema_failures == 8
    assert record.candidate.refusals == 5
    assert record.agreed <= 12
    assert record.refusal_rate == 0.25
    strict = ShadowRequirement(
        min_rows=21, min_agreement=0.9, min_schema_validity=0.9, max_refusal_rate=0.1,
        max_length_ratio=1.0001,
    )  # fmt: skip
    assert len(shortfalls(record, strict)) == 5
    assert shortfalls(record, ShadowRequirement(min_rows=20)) == []
    differing = list(disagreements(production, made, 3))
    assert len(differing) == 3


def test_a_changed_document_cannot_be_compared(
    production: Finished, corpus: Path, tmp_path: Path
) -> None:
    for path in corpus.iterdir():
        path.write_text("something else")
    with pytest.raises(ShadowImpossible, match="Compare on a job whose documents are as they were"):
        write_documents(production.plan.job, sample(production, 5), tmp_path / "documents.jsonl")
    assert not (tmp_path / "documents.jsonl").exists()


def test_a_job_without_manifest_is_not_production(
    make_job: Callable[..., BatchJob], tmp_path: Path
) -> None:
    with pytest.raises(JobNotFinished):
        finished_job(str(tmp_path / "nothing"))
