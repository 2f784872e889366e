"""The worker: every row once, failures as rows, shards fed without a pause between them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from finishing import Engines, do_work, finish, rows_of
from scripted_engine import Script, good

from pipelines.batch.job import BatchJob
from pipelines.batch.layout import journal_folder, plan_name, shard_name
from pipelines.batch.manifest import count, load_manifest, missing_shards, write_manifest
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.store import open_store
from pipelines.canonical import sha256_bytes
from pipelines.errors import JobNotFinished, OutputDamaged, TooManyErrors

MakeJob = Callable[..., BatchJob]


def test_every_document_becomes_one_row_with_its_provenance(
    make_job: MakeJob, tiny_model: ModelOnDisk, corpus: Path
) -> None:
    job = make_job()
    manifest = finish(job, tiny_model)
    planned = plan(job, tiny_model)
    rows = rows_of(job.output, planned)
    assert [row["row"] for row in rows] == list(range(40))
    assert {row["document_id"] for row in rows} == {path.name for path in corpus.iterdir()}
    for row in rows:
        source = (corpus / row["document_id"]).read_bytes()
        assert row["document_sha256"] == sha256_bytes(source)
        assert row["id"] == f"{row['document_id']}#0"
        assert json.loads(row["output"]) == json.loads(row["raw_text"])
        assert row["output_number"] == row["row"]
        assert row["output_label"] in ("red", "green", "blue")
        assert (row["error_class"], row["error_message"]) == (None, None)
        assert (row["attempts"], row["finish_reason"], row["engine"]) == (1, "stop", "scripted 1")
        assert row["weight_digest"] == tiny_model.weight_digest
        assert row["template_sha256"] == tiny_model.template_sha256
        assert row["prompt_sha256"] == planned.prompt_sha256
    assert manifest.tokens.prompt == planned.prompt_tokens
    assert manifest.tokens.completion == 40 * 7


def test_the_engine_is_fed_across_shard_borders_within_its_bound(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    engines = Engines()
    report = do_work(make_job(engine={"max_in_flight": 20}), tiny_model, engines)
    assert engines.made[0].most_in_flight == 20  # two and a half shards
    assert (report.shards_committed, report.rows_generated) == (5, 40)


def test_an_answer_that_does_not_fit_is_asked_for_again(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    script = Script(
        answers={
            3: ("{broken", good(3)),
            4: ("{broken", '{"label": "purple", "number": 1}'),
            5: (json.dumps({"label": "red", "number": 2**70}),) * 2,
            6: ("\ud800",) * 2,
        }
    )
    job = make_job()
    manifest = finish(job, tiny_model, script)
    rows = rows_of(job.output, plan(job, tiny_model))
    assert (rows[3]["error_class"], rows[3]["attempts"]) == (None, 2)
    assert rows[3]["completion_tokens"] == 14
    assert (rows[4]["error_class"], rows[4]["attempts"]) == ("schema_violation", 2)
    assert "purple" in rows[4]["error_message"]
    assert rows[4]["raw_text"] == '{"label": "purple", "number": 1}'
    assert (rows[4]["output"], rows[4]["output_label"]) == (None, None)
    assert rows[5]["error_class"] == "schema_violation"
    assert rows[6]["error_class"] == "invalid_json"
    assert manifest.errors == {"invalid_json": 1, "schema_violation": 2}
    assert manifest.attempts == 44


def test_an_answer_cut_at_max_tokens_is_an_error_only_under_a_schema(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    script = Script(finish={0: "length", 1: "abort"})
    job = make_job(sampling={"max_tokens": 64, "attempts": 1})
    assert finish(job, tiny_model, script).errors == {"cut_at_max_tokens": 1, "engine_error": 1}
    text = make_job(
        sampling={"max_tokens": 64, "attempts": 1},
        output_schema=None,
        output=str(tmp_path / "text"),
    )
    assert finish(text, tiny_model, script).errors == {"engine_error": 1}
    row = rows_of(text.output, plan(text, tiny_model))[0]
    assert (row["output"], row["finish_reason"]) == (None, "length")
    assert row["raw_text"] == good(0)


def test_a_refused_request_is_an_error_row(make_job: MakeJob, tiny_model: ModelOnDisk) -> None:
    everything = Script(refused=tuple(range(40)))
    assert finish(make_job(), tiny_model, everything).errors == {"request_refused": 40}


def test_documents_that_changed_since_they_were_planned_are_error_rows(
    make_job: MakeJob, tiny_model: ModelOnDisk, corpus: Path
) -> None:
    job = make_job()
    planned = plan(job, tiny_model)
    (corpus / "document-004.txt").write_text("Changed.")
    (corpus / "document-005.txt").unlink()
    request_rows = _work_on(job, tiny_model)
    assert request_rows == {"document-004.txt", "document-005.txt"}
    rows = rows_of(job.output, planned)
    assert "planned as" in rows[4]["error_message"]
    assert "gone: No such file" in rows[5]["error_message"]


def _work_on(job: BatchJob, model: ModelOnDisk) -> set[str]:
    """Work on a plan whose corpus changed; the documents with an error."""
    from pipelines.batch.records import WorkerRequest
    from pipelines.batch.taking_up import load_plan
    from pipelines.batch.worker import work

    planned = load_plan(open_store(job.output))
    assert planned is not None
    journal = journal_folder(job.output, planned.job_id)
    work(WorkerRequest(job=job, model=model, journal=journal), Engines())
    rows = rows_of(job.output, planned)
    assert {row["error_class"] for row in rows} == {None, "document_changed"}
    return {row["document_id"] for row in rows if row["error_class"]}


def test_chunks_of_a_document_are_rows_with_their_own_text(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    lines = [{"id": n, "text": f"text of {n} " * 20} for n in range(5)]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = make_job(
        corpus={"path": path, "kind": "jsonl"}, chunking={"tokens": 90, "overlap_tokens": 10}
    )
    manifest = finish(job, tiny_model)
    rows = rows_of(job.output, plan(job, tiny_model))
    chunks = Counter(row["document_id"] for row in rows)
    assert (manifest.documents, manifest.rows) == (5, len(rows))
    assert set(chunks.values()) == {3}
    assert manifest.tokens.prompt == plan(job, tiny_model).prompt_tokens


def test_no_engine_is_started_when_nothing_is_left(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job, again = make_job(), Engines()
    do_work(job, tiny_model, Engines())
    assert do_work(job, tiny_model, again).shards_committed == 0
    assert again.made == []


def test_no_engine_is_started_for_rows_that_are_errors_or_journaled(
    make_job: MakeJob, tiny_model: ModelOnDisk, corpus: Path, tmp_path: Path
) -> None:
    (corpus / "zz.txt").write_bytes(b"\xff")
    job, engines = make_job(), Engines(Script(log=tmp_path / "log"))
    planned = plan(job, tiny_model)
    kept = tmp_path / "kept"
    with pytest.MonkeyPatch.context() as patch:  # a worker that is killed before it tidies
        patch.setattr("pipelines.batch.journal.ShardJournal.remove", lambda self: self.close())
        do_work(job, tiny_model, engines)
    shutil.copytree(journal_folder(job.output, planned.job_id), kept)
    shutil.rmtree(Path(job.output, "shards"))
    again = Engines()
    report = do_work(job, tiny_model, again)
    assert again.made == []
    assert (report.rows_resumed, report.shards_committed) == (41, 6)
    assert len(rows_of(job.output, planned)) == 41


def test_the_second_of_two_workers_drops_its_rows(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = make_job()
    planned = plan(job, tiny_model)
    mine = [json.dumps({"label": "blue", "number": 1000 + n}) for n in range(40)]
    theirs = Engines(Script(answers={n: (text,) for n, text in enumerate(mine)}))
    with pytest.MonkeyPatch.context() as patch:
        # Both look before either has committed: `exists` is a moment too early for everyone.
        patch.setattr("pipelines.batch.store.FolderStore.exists", lambda self, name: False)
        patch.setattr("pipelines.batch.feed.Feed._committed", lambda self: set())
        first = do_work(job, tiny_model, Engines())
        second = do_work(job, tiny_model, theirs)
    assert (first.shards_committed, first.shards_lost) == (5, 0)
    assert (second.shards_committed, second.shards_lost) == (0, 5)
    assert [row["output_number"] for row in rows_of(job.output, planned)] == list(range(40))


def test_too_many_errors_stop_the_worker_and_a_higher_limit_resumes_it(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    script = Script(answers=dict.fromkeys(range(0, 40, 2), ("no", "no")))
    strict = make_job(limits={"max_error_rate": 0.25})
    with pytest.raises(TooManyErrors, match=r"11 of 40 rows are errors: 11 invalid_json"):
        do_work(strict, tiny_model, Engines(script))
    loose, engines = make_job(limits={"max_error_rate": 0.5}), Engines(script)
    report = do_work(loose, tiny_model, engines)
    assert report.rows_generated + report.rows_resumed < 40 + 8
    store = open_store(loose.output)
    planned = plan(loose, tiny_model)
    assert count(planned, store, 0.5).errors == {"invalid_json": 20}
    with pytest.raises(TooManyErrors, match="20 of 40"):
        count(planned, store, 0.25)


def test_a_damaged_plan_stops_the_worker(make_job: MakeJob, tiny_model: ModelOnDisk) -> None:
    job = make_job()
    planned = plan(job, tiny_model)
    Path(job.output, plan_name(planned.job_id, 2)).write_bytes(b"other")
    with pytest.raises(OutputDamaged, match="planned as"):
        do_work(job, tiny_model, Engines())


def test_no_manifest_before_every_shard_is_there(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = make_job()
    finish(job, tiny_model)
    store, planned = open_store(job.output), plan(job, tiny_model)
    Path(job.output, shard_name(3)).unlink()
    assert missing_shards(planned, store) == [3]
    with pytest.raises(JobNotFinished, match="1 shards"):
        count(planned, store, 1.0)


def test_the_manifest_refuses_shards_that_do_not_hold_the_planned_rows(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    job = make_job()
    manifest = finish(job, tiny_model)
    store, planned = open_store(job.output), plan(job, tiny_model)
    shard = Path(job.output, shard_name(0))
    good_bytes = shard.read_bytes()
    shard.write_bytes(Path(job.output, shard_name(1)).read_bytes())
    with pytest.raises(OutputDamaged, match="rows 0 to 7 once each"):
        count(planned, store, 1.0)
    shard.write_bytes(b"PAR1 not")
    with pytest.raises(OutputDamaged, match="not a shard"):
        count(planned, store, 1.0)
    other = make_job(classification="public", output=str(tmp_path / "other"))
    finish(other, tiny_model)
    shard.write_bytes(Path(other.output, shard_name(0)).read_bytes())
    with pytest.raises(OutputDamaged, match="another job"):
        count(planned, store, 1.0)
    shard.write_bytes(good_bytes)
    assert count(planned, store, 1.0) == manifest == load_manifest(store)
    with pytest.raises(OutputDamaged, match="does not describe"):
        write_manifest(manifest.model_copy(update={"rows_ok": 1}), store)
