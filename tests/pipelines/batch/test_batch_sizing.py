"""Before spending: duplicates, over-long documents, estimated tokens, time and cost, dry runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from finishing import Engines, do_work, finish, rows_of
from scripted_engine import Script, good
from tiny import make_tiny_model

from pipelines.batch.copies import fill_copies
from pipelines.batch.dry_run import dry_run
from pipelines.batch.job import BatchJob
from pipelines.batch.layout import plan_name, shard_name
from pipelines.batch.manifest import count
from pipelines.batch.plan import plan
from pipelines.batch.records import JobPlan, ModelOnDisk, WorkerReport
from pipelines.batch.rows import PlannedRow, read_planned
from pipelines.batch.run import run_batch
from pipelines.batch.store import open_store
from pipelines.batch.throughput import FILE, estimate, record
from pipelines.batch.tokens import ModelTokenizer
from pipelines.errors import ConfigError, JobNotFinished

MakeJob = Callable[..., BatchJob]


def planned_rows(job: BatchJob, made: JobPlan) -> list[PlannedRow]:
    store = open_store(job.output)
    found = [store.read(plan_name(made.job_id, index)) for index in range(len(made.shards))]
    return [row for data in found if data is not None for row in read_planned(data)]


def jsonl(path: Path, texts: list[str]) -> dict[str, str]:
    lines = [json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return {"path": str(path)}


@pytest.fixture
def repeated(make_job: MakeJob, tmp_path: Path) -> BatchJob:
    """Twenty-one documents of five contents and one that is broken, each content answered once."""
    texts = [f"content {n % 5}" for n in range(20)] + ["", "x" * 600]
    corpus = jsonl(tmp_path / "repeated.jsonl", texts)
    return make_job(corpus=corpus, duplicates="answer_once", shard_rows=4)


def test_documents_of_equal_content_are_answered_once_and_copied(
    repeated: BatchJob, tiny_model: ModelOnDisk
) -> None:
    made = plan(repeated, tiny_model)
    assert (made.documents, made.duplicate_documents, made.rows) == (22, 15, 22)
    planned = planned_rows(repeated, made)
    copies = [row for row in planned if row.copy_of is not None]
    assert len(copies) == 15
    assert made.prompt_tokens == sum(r.prompt_tokens for r in planned[:5])
    assert [row.row for row in planned] == list(range(22))
    script = Script(answers={2: ("no JSON", "no JSON")})
    engines = Engines(script)
    report = do_work(repeated, tiny_model, engines)
    assert report.rows_generated == 5
    store = open_store(repeated.output)
    with pytest.raises(JobNotFinished):
        count(made, store, 1.0)
    assert fill_copies(made, store) == len(made.shards) - made.first_copy_shard == 4
    assert fill_copies(made, store) == 0
    manifest = count(made, store, 1.0)
    rows = rows_of(repeated.output, made)
    by_document = {row["document_id"]: row for row in rows}
    assert len(rows) == len(by_document) == manifest.rows == 22
    for number in range(5, 20):
        row, first = by_document[f"d{number}"], by_document[f"d{number % 5}"]
        assert (row["duplicate_of"], row["answered_by"]) == (f"d{number % 5}", f"d{number % 5}#0")
        same = ("raw_text", "output", "output_label", "error_class", "finish_reason", "engine")
        assert [row[name] for name in same] == [first[name] for name in same]
        assert (row["attempts"], row["completion_tokens"]) == (0, 0)
        assert row["id"] == f"d{number}#0"
    assert by_document["d7"]["error_class"] == "invalid_json"
    assert manifest.errors == {"empty": 1, "invalid_json": 4, "too_long": 1}
    assert manifest.tokens.completion == 7 * 6


def test_copies_wait_until_all_others_are_committed(
    repeated: BatchJob, tiny_model: ModelOnDisk
) -> None:
    made = plan(repeated, tiny_model)
    assert fill_copies(made, open_store(repeated.output)) == 0


def test_a_run_that_was_killed_among_its_copies_ends_as_any_other(
    repeated: BatchJob, tiny_model: ModelOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(repeated, tiny_model)
    do_work(repeated, tiny_model, Engines())
    store = open_store(repeated.output)
    fill_copies(made, store)
    kept = store.read(shard_name(made.first_copy_shard))
    Path(repeated.output, shard_name(len(made.shards) - 1)).unlink()
    monkeypatch.setenv("PYTHONPATH", "no engine may be started")
    manifest = run_batch(repeated, tiny_model, workers=2, worker_module="no_such_worker")
    assert (manifest.rows, manifest.rows_ok) == (22, 20)
    assert store.read(shard_name(made.first_copy_shard)) == kept


def test_a_prompt_that_names_the_id_cannot_be_answered_once(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = make_job(duplicates="answer_once", prompt={"template": "{{ id }}: {{ text }}"})
    with pytest.raises(ConfigError, match=r"duplicates.*names the document's id"):
        plan(job, tiny_model)


LONG = " ".join(f"word-{n}" for n in range(120))  # about twice what fits


def test_an_over_long_document_is_refused_cut_or_divided_as_the_job_says(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    corpus = jsonl(tmp_path / "long.jsonl", ["short", LONG])
    rows: dict[str, list[PlannedRow]] = {}
    for over_long in ("refuse", "truncate", "chunk"):
        job = make_job(corpus=corpus, over_long=over_long, output=str(tmp_path / over_long))
        made = plan(job, tiny_model)
        rows[over_long] = planned_rows(job, made)
        assert made.cut_documents == (over_long == "truncate")
    assert [row.error_class for row in rows["refuse"]] == [None, "too_long"]
    (cut,) = rows["truncate"][1:]
    assert (cut.error_class, cut.start, cut.chunks) == (None, 0, 1)
    assert 440 < cut.prompt_tokens <= 512 - 64
    parts = rows["chunk"][1:]
    assert len(parts) > 2
    assert "".join(LONG[part.start : part.end] for part in parts) == LONG
    assert [(part.chunk, part.chunks) for part in parts] == [
        (n, len(parts)) for n in range(len(parts))
    ]
    assert all(part.prompt_tokens <= 512 - 64 for part in parts)


def test_parts_of_an_over_long_document_overlap_as_asked(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    corpus = jsonl(tmp_path / "long.jsonl", [LONG])
    job = make_job(corpus=corpus, over_long="chunk", chunking={"overlap_tokens": 20, "first": 2})
    made = plan(job, tiny_model)
    first, second = planned_rows(job, made)
    assert first.end - second.start == 20
    assert made.cut_documents == 1


def test_a_prompt_that_is_too_long_by_itself_is_refused_whatever_the_job_says(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = make_job(prompt={"template": "x" * 500 + "{{ text }}"}, over_long="truncate")
    assert plan(job, tiny_model).planned_errors == {"too_long": 40}


def test_estimated_tokens_are_close_and_no_row_that_may_not_fit_is_estimated(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    texts = [f"document {n} " + "word " * (n % 40) for n in range(1500)] + ["y" * 430, "z" * 500]
    corpus = jsonl(tmp_path / "many.jsonl", texts)
    counted = plan(make_job(corpus=corpus, output=str(tmp_path / "a")), tiny_model)
    job = make_job(corpus=corpus, tokens="estimate", output=str(tmp_path / "b"))
    estimated = plan(job, tiny_model)
    assert estimated.estimated_prompts == 1500 - 4 * 256  # whole batches, until 1,000 are counted
    assert estimated.prompt_tokens == pytest.approx(counted.prompt_tokens, rel=0.02)
    assert estimated.planned_errors == counted.planned_errors
    assert estimated.job_id == counted.job_id
    assert any("476 prompts are estimated" in note for note in estimated.notes)


def test_nothing_is_claimed_of_tokenizers_that_are_not_byte_pairs(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    assert ModelTokenizer(model.weights).most_tokens(10) == 11
    file = model.weights / "tokenizer.json"
    described = json.loads(file.read_text())
    described["normalizer"] = {"type": "NFC"}
    file.write_text(json.dumps(described))
    assert ModelTokenizer(model.weights).most_tokens(10) == 31
    described["normalizer"] = {"type": "NFKC"}
    file.write_text(json.dumps(described))
    assert ModelTokenizer(model.weights).most_tokens(10) is None


def test_time_and_cost_are_estimated_from_measured_jobs_of_these_weights_alone(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    job, home = make_job(), tmp_path / "home"
    made = plan(job, tiny_model)
    assert estimate(home, made) is None
    manifest = finish(job, tiny_model)
    report = WorkerReport(
        rows_generated=40, engine="scripted 1", generate_s=100.0, engine_start_s=10.0
    )
    assert record(home, made, manifest, [report])
    assert record(home, made, manifest, [report.model_copy(update={"generate_s": 120.0})])
    (home / FILE).open("ab").write(b'{"of": "another version"}\n')
    found = estimate(home, made, usd_per_hour=3.6)
    assert found is not None
    assert found.jobs == 2
    assert found.completion_tokens.likely == manifest.tokens.completion
    assert found.seconds.likely == pytest.approx(120)
    assert found.seconds.least == pytest.approx((10 + 80) * 0.8)
    assert found.seconds.most == pytest.approx((10 + 120 * 1.2) * 1.2)
    assert found.usd is not None
    assert found.usd.likely == pytest.approx(0.12)
    tokens = ("prompt_tokens", "most_completion_tokens")
    twice = made.model_copy(update={name: 2 * getattr(made, name) for name in tokens})
    doubled = estimate(home, twice)
    assert doubled is not None
    assert doubled.seconds.likely == pytest.approx(230)
    assert doubled.usd is None
    other = made.model_copy(update={"weight_digest": "0" * 64})
    assert estimate(home, other) is None
    assert estimate(home, made, workers=2) is None
    few = report.model_copy(update={"rows_generated": 3})
    assert not record(home, made, manifest, [few])


def test_a_dry_run_shows_prompts_and_answers_and_writes_nothing(
    make_job: MakeJob,
    tiny_model: ModelOnDisk,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (corpus / "a-broken.txt").write_bytes(b"caf\xe9")
    job = make_job(limits={"max_error_rate": 0})
    samples = dry_run(job, tiny_model, answers=False)
    assert len(samples) == 20
    assert (samples[0].id, samples[0].prompt) == ("a-broken.txt#0", "")
    assert "not UTF-8" in str(samples[0].error)
    assert "Which colour?\nThis is document 0." in samples[1].prompt
    assert samples[1].prompt_tokens == len(samples[1].prompt) - (11 + 9 + 11)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    answered = dry_run(job, tiny_model, answers=True, documents=3, worker_module="scripted_engine")
    assert [sample.answer for sample in answered] == ["", good(1), good(2)]
    assert not Path(job.output).exists()


def test_plans_note_languages_and_media_types(
    make_job: MakeJob, tiny_model: ModelOnDisk, corpus: Path
) -> None:
    german = "Die Lizenz sagt, was mit dem Programm getan werden darf. " * 2
    (corpus / "a.md").write_text(german)
    made = plan(make_job(corpus={"path": str(corpus), "language": True}), tiny_model)
    assert made.media_types == {"text/markdown": 1, "text/plain": 40}
    assert made.languages["de"] == 1
    assert sum(made.languages.values()) == 41
