"""Reduce: the answers about a document's chunks become one, from committed rows alone."""

from __future__ import annotations

import io
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from finishing import Engines, do_work, finish, rows_of
from processes import HERE, check_once_each, children, end, kill, start, wait_for
from pydantic import ValidationError
from scripted_engine import SCRIPT, Script, good

from pipelines.batch.copies import fill_copies
from pipelines.batch.dry_run import dry_run
from pipelines.batch.export import export
from pipelines.batch.feed import Feed
from pipelines.batch.job import BatchJob
from pipelines.batch.layout import plan_name, shard_name
from pipelines.batch.manifest import count, load_manifest
from pipelines.batch.plan import plan
from pipelines.batch.prompt import prompt_sha256, reduce_prompt
from pipelines.batch.recall import rerun
from pipelines.batch.records import ModelOnDisk, WorkerReport, WorkerRequest
from pipelines.batch.rows import parquet_bytes, read_planned
from pipelines.batch.run import run_batch
from pipelines.batch.status import status
from pipelines.batch.store import open_store
from pipelines.batch.throughput import estimate, record
from pipelines.batch.worker import answer
from pipelines.errors import CommandFailed, ConfigError, JobNotFinished

MakeJob = Callable[..., BatchJob]
TEMPLATE = "{% for a in answers %}{{ a | tojson }};{% endfor %}{{ chunks }}"
REDUCE = {"template": TEMPLATE}


def text_of(chunks: int, letter: str = "x") -> str:
    """A text of so many chunks of 16 tokens (one token a byte)."""
    return letter * 16 * chunks


def documents(path: Path, texts: list[str], **fields: Any) -> dict[str, str]:
    lines = [json.dumps({"id": f"d{n}", "text": text, **fields}) for n, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return {"path": str(path)}


@pytest.fixture
def reducing(make_job: MakeJob, tmp_path: Path) -> Callable[..., BatchJob]:
    """A job over documents of 3, 1 and 5 chunks, four rows a shard."""

    def make(texts: list[str] | None = None, **changes: Any) -> BatchJob:
        corpus = documents(
            tmp_path / "documents.jsonl",
            texts or [text_of(3, "a"), text_of(1, "b"), text_of(5, "c")],
        )
        reduce = {**REDUCE, **changes.pop("reduce", {})}
        given = {
            "corpus": corpus,
            "shard_rows": 4,
            "prompt": {"template": "{{ text }}"},
            "chunking": {"tokens": 16, "reduce": reduce},
            "sampling": {"max_tokens": 32},
        }
        return make_job(**{**given, **changes})

    return make


def test_chunks_are_answered_first_and_then_combined(
    reducing: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    job = reducing()
    made = plan(job, tiny_model)
    assert (made.documents, made.rows, made.reduced_rows) == (3, 11, 2)
    assert made.first_reduced_shards == (3,)
    assert made.passes() == (range(3), range(3, 4))
    assert made.most_completion_tokens == 11 * 32
    assert made.reduced_prompt_tokens >= 8 * 32
    manifest = finish(job, tiny_model)
    rows = rows_of(job.output, made)
    assert [row["row"] for row in rows] == list(range(11))
    assert [row["id"] for row in rows[:4]] == ["d0#0", "d0#1", "d0#2", "d1#0"]
    assert [row["id"] for row in rows[9:]] == ["d0#-1", "d2#-1"]
    assert [row["document_id"] for row in rows if row["final"]] == ["d1", "d0", "d2"]
    assert rows[9]["output_number"] == 9
    assert job.reduce is not None
    combined = prompt_sha256(reduce_prompt(job.prompt, job.reduce))
    assert {row["prompt_sha256"] for row in rows[9:]} == {combined}
    assert {row["prompt_sha256"] for row in rows[:9]} == {manifest.prompt_sha256}
    assert (manifest.rows, manifest.rows_ok, manifest.reduced_rows) == (11, 11, 2)
    assert manifest.reduce == job.reduce
    assert status(job.output).reduced_rows == 2
    assert export(job.output, tmp_path / "all.jsonl") == 11
    assert export(job.output, tmp_path / "few.jsonl", documents=True) == 3
    kept = [json.loads(line)["id"] for line in (tmp_path / "few.jsonl").read_text().splitlines()]
    assert kept == ["d1#0", "d0#-1", "d2#-1"]


def prompts_of(job: BatchJob, model: ModelOnDisk) -> dict[str, str]:
    """Row id to prompt, as the feed would make it now from what is committed."""
    made, store = plan(job, model), open_store(job.output)
    request = WorkerRequest(job=job, model=model, journal=Path(job.output, "none"))
    feed, found = Feed(request, made, store), {}
    for shards in made.passes()[1:]:
        for index in shards:
            data = store.read(plan_name(made.job_id, index))
            assert data is not None
            for row in read_planned(data):
                reducer = feed._made_tools()[2]
                assert reducer is not None
                found[f"{row.document_id}#{row.chunk}"] = reducer.prompt(row, feed._read)
    feed.close()
    return found


def test_the_combining_prompt_holds_the_committed_answers_in_order(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    reduce = {"template": TEMPLATE + " of {{ id }}", "system": "Be brief."}
    job = reducing(reduce=reduce)
    finish(job, tiny_model)
    prompt = prompts_of(job, tiny_model)["d0#-1"]
    answers = "".join(f"{json.dumps(json.loads(good(n)))};" for n in range(3))
    assert "system\nBe brief." in prompt
    assert f"user\n{answers}3 of d0<" in prompt


def test_answers_in_text_and_columns_of_the_document_can_be_named(
    reducing: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    corpus = documents(tmp_path / "titled.jsonl", [text_of(2)], title="On colours")
    template = "{{ title }}: {{ answers | join('|') }}"
    job = reducing(corpus=corpus, output_schema=None, reduce={"template": template})
    finish(job, tiny_model, Script(answers={0: ("red",), 1: ("green & blue",)}))
    assert "user\nOn colours: red|green & blue<" in prompts_of(job, tiny_model)["d0#-1"]


def test_jobs_that_do_not_combine_keep_their_identity(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    made = plan(reducing(chunking={"tokens": 16}), tiny_model)
    assert made.identity["chunking"] == '{"first":null,"overlap_tokens":0,"tokens":16}'
    assert made.passes() == (range(len(made.shards)),)


def test_a_plan_from_before_rows_were_combined_can_be_read(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    made = plan(job := reducing(), tiny_model)
    data = open_store(job.output).read(plan_name(made.job_id, 0))
    assert data is not None
    table = pq.read_table(io.BytesIO(data)).drop_columns(["first_part", "parts", "is_part"])
    rows = read_planned(parquet_bytes(table))
    assert [(row.parts, row.is_part) for row in rows] == [(None, None)] * 4


def test_the_plan_says_which_prompts_may_not_fit(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    notes = "; ".join(plan(reducing([text_of(20), text_of(2)]), tiny_model).notes)
    assert "2 documents have several chunks" in notes
    assert "1 prompts that combine answers do not fit" in notes


def test_more_answers_than_at_once_are_combined_in_rounds(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = reducing(reduce={"at_once": 2}, sampling={"max_tokens": 64})
    made = plan(job, tiny_model)
    assert made.passes() == (range(3), range(3, 5), range(5, 6), range(6, 7))
    manifest = finish(job, tiny_model)
    ids = [row["id"] for row in rows_of(job.output, made)[9:]]
    assert ids == ["d0#-2", "d0#-3", "d2#-2", "d2#-3", "d2#-4", "d0#-1", "d2#-5", "d2#-6", "d2#-1"]
    assert manifest.rows_ok == 18
    finals = [row["document_id"] for row in rows_of(job.output, made) if row["final"]]
    assert finals == ["d1", "d0", "d2"]
    assert good(14)[:9] in prompts_of(job, tiny_model)["d0#-1"]


def test_a_failed_chunk_fails_its_document_and_is_named(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = reducing(reduce={"at_once": 3})
    script = Script(answers={6: ("no JSON", "no JSON")})  # d2's third chunk
    manifest = finish(job, tiny_model, script)
    rows = {row["id"]: row for row in rows_of(job.output, plan(job, tiny_model))}
    final = rows["d2#-1"]
    assert final["error_class"] == "part_failed"
    assert final["error_message"].startswith("chunk 2: invalid_json: ")
    assert (final["attempts"], final["prompt_tokens"], final["final"]) == (0, 0, True)
    assert rows["d0#-1"]["error_class"] is None
    assert manifest.errors == {"invalid_json": 1, "part_failed": 2}  # d2#-2 and d2#-1
    assert manifest.documents_with_errors == 1


def test_a_chunk_that_cannot_be_asked_costs_no_round(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    prompt = {"template": "{% if chunk == 1 %}{{ 'y' * 600 }}{% endif %}{{ text }}"}
    job = reducing(prompt=prompt, reduce={"at_once": 2})
    made = plan(job, tiny_model)
    assert (made.planned_errors, made.reduced_rows, made.reduced_prompt_tokens) == (
        {"too_long": 2},
        2,
        0,
    )
    manifest = finish(job, tiny_model)
    assert manifest.errors == {"part_failed": 2, "too_long": 2}
    assert manifest.documents_with_errors == 2


def test_answers_too_long_together_are_an_error_row_and_not_cut(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    long = json.dumps({"label": "red", "number": 10**17})
    script = Script(answers=dict.fromkeys(range(22), (long,)))
    texts = [text_of(20), text_of(2, "z")]
    job = reducing(texts)
    manifest = finish(job, tiny_model, script)
    rows = {row["id"]: row for row in rows_of(job.output, plan(job, tiny_model))}
    assert rows["d0#-1"]["error_class"] == "too_long"
    assert "480 fit beside the longest answer" in rows["d0#-1"]["error_message"]
    assert rows["d1#-1"]["error_class"] is None
    assert manifest.errors == {"too_long": 1}


def test_duplicates_get_the_combined_answer_too(reducing: MakeJob, tiny_model: ModelOnDisk) -> None:
    texts = [text_of(3), text_of(1, "b"), text_of(3), text_of(1, "b"), text_of(3)]
    job = reducing(texts, duplicates="answer_once", reduce={"at_once": 2})
    made = plan(job, tiny_model)
    do_work(job, tiny_model, Engines())
    store = open_store(job.output)
    assert fill_copies(made, store) == len(made.shards) - made.first_copy_shard
    manifest = count(made, store, 0.0)
    rows = {row["id"]: row for row in rows_of(job.output, made)}
    assert len(rows) == manifest.rows == 3 * 6 + 2
    for copy in ("d2", "d4"):
        for chunk in (0, 1, 2, -1, -2, -3):
            row, first = rows[f"{copy}#{chunk}"], rows[f"d0#{chunk}"]
            assert (row["answered_by"], row["duplicate_of"]) == (first["id"], "d0")
            assert (row["output"], row["final"]) == (first["output"], first["final"])
            assert (row["attempts"], row["document_id"]) == (0, copy)
    assert sum(row["final"] for row in rows.values()) == 5


def test_killed_between_the_passes_no_chunk_is_asked_again(
    reducing: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    job = reducing()
    script = Script(log=log, slow_s=0.3)
    process = start(job, tiny_model, script)
    store = open_store(job.output)
    wait_for(lambda: all(store.exists(shard_name(index)) for index in range(3)), process)
    for pid in (*children(process.pid), process.pid):
        kill(pid, signal.SIGKILL)
    end(process)
    before = [store.read(shard_name(index)) for index in range(3)]
    assert load_manifest(store) is None
    asked = len(log.read_text().splitlines())
    code, said = end(start(job, tiny_model, Script(log=log)))
    assert (code, said) == (0, said)
    again = log.read_text().splitlines()[asked:]
    assert {line.partition("-")[0] for line in again} <= {"start", "close", "9", "10"}
    assert [store.read(shard_name(index)) for index in range(3)] == before
    assert check_once_each(job, 11).rows_ok == 11


def test_workers_combine_only_what_is_committed(
    reducing: MakeJob, tiny_model: ModelOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = reducing([text_of(4, letter) for letter in "abcdefgh"])
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv(SCRIPT, Script(slow_s=0.005).model_dump_json())
    manifest = run_batch(job, tiny_model, workers=2, worker_module="scripted_engine")
    assert (manifest.rows_ok, manifest.reduced_rows) == (40, 8)
    check_once_each(job, 40)


def test_an_engine_that_dies_of_a_combining_prompt_costs_that_row_only(
    reducing: MakeJob, tiny_model: ModelOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, script = reducing(), Script(raises=(10,))

    def in_place(_: str, request: WorkerRequest, **kept: object) -> Any:
        return answer(request.model_dump_json().encode(), Engines(script))

    monkeypatch.setattr("pipelines.batch.recovery.run_module", in_place)
    assert run_batch(job, tiny_model).errors == {"engine_died": 1}
    check_once_each(job, 11)
    failed = [row["id"] for row in rows_of(job.output, plan(job, tiny_model)) if row["error_class"]]
    assert failed == ["d2#-1"]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_killed_workers_lose_no_row_whatever_the_moment(
    reducing: MakeJob,
    tiny_model: ModelOnDisk,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    seed: int,
) -> None:
    job = reducing(
        [text_of(1 + n % 7, "abcd"[n % 4]) for n in range(20)],
        reduce={"at_once": 3},
        sampling={"max_tokens": 64},
        duplicates="answer_once",
        engine={"max_in_flight": 6, "restarts": 0},
    )
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    moments, log = random.Random(seed), tmp_path / "log"
    manifest, kills = None, 0
    while manifest is None:
        moment = moments.randint(5, 110) if kills < 8 else None
        monkeypatch.setenv(SCRIPT, Script(kill_at=moment, log=log).model_dump_json())
        try:
            manifest = run_batch(
                job, tiny_model, workers=1 + seed % 3, worker_module="scripted_engine"
            )
        except CommandFailed:
            kills += 1
    assert kills >= 3
    assert manifest.rows_ok == manifest.rows == plan(job, tiny_model).rows
    check_once_each(job, manifest.rows)
    rows = rows_of(job.output, plan(job, tiny_model))
    assert sorted(row["document_id"] for row in rows if row["final"]) == sorted(
        f"d{n}" for n in range(20)
    )


def test_a_pass_that_comes_too_early_finds_nothing_to_combine(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = reducing()
    plan(job, tiny_model)
    with pytest.raises(JobNotFinished):
        prompts_of(job, tiny_model)


@pytest.mark.parametrize(
    ("template", "fact"),
    [
        ("{% for", "not a Jinja template"),
        ("Sum this up.", "does not name answers"),
        ("{{ answers }} {{ text }}", "belongs to one chunk"),
        ("{{ answers }} {{ titel }}", "no document has all it names"),
    ],
)
def test_a_prompt_that_cannot_combine_is_refused_before_anything_is_asked(
    reducing: MakeJob, tiny_model: ModelOnDisk, template: str, fact: str
) -> None:
    with pytest.raises(ConfigError, match=fact):
        plan(reducing(reduce={"template": template}), tiny_model)


def test_a_prompt_that_names_the_id_cannot_combine_for_duplicates(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = reducing(reduce={"template": "{{ answers }} {{ id }}"}, duplicates="answer_once")
    with pytest.raises(ConfigError, match="answered once"):
        plan(job, tiny_model)


def test_vectors_are_not_combined(reducing: MakeJob) -> None:
    with pytest.raises(ValidationError, match="gives none"):
        reducing(task="embed", output_schema=None)


def test_a_recall_of_combined_answers_is_refused(
    reducing: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = reducing()
    finish(job, tiny_model)
    better = tiny_model.model_copy(update={"weight_digest": "cd" * 32})
    with pytest.raises(ConfigError, match="combine others"):
        rerun(job.output, tiny_model.weight_digest, better)


def test_jobs_that_combine_nothing_have_no_final_rows_to_export(
    reducing: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    job = reducing(chunking={"tokens": 16})
    finish(job, tiny_model)
    assert "final" not in rows_of(job.output, plan(job, tiny_model))[0]
    with pytest.raises(ConfigError, match="--documents"):
        export(job.output, tmp_path / "rows.jsonl", documents=True)


def test_a_dry_run_shows_the_prompts_that_combine(
    reducing: MakeJob, tiny_model: ModelOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = reducing([text_of(2)])
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    shown = dry_run(job, tiny_model, answers=False)
    assert [(s.id, s.prompt) for s in shown][2:] == [("d0#-1", TEMPLATE)]
    asked = dry_run(job, tiny_model, answers=True, worker_module="scripted_engine")
    assert '"number": 1' in asked[2].prompt
    assert asked[2].answer == good(2)


def test_estimates_read_what_combines_as_long_as_answers_are(
    reducing: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    job = reducing()
    made, manifest = plan(job, tiny_model), finish(job, tiny_model)
    report = WorkerReport(rows_generated=64, engine="scripted 1", generate_s=100.0)
    assert record(tmp_path / "home", made, manifest, [report])
    without = made.model_copy(update={"reduced_prompt_tokens": 0})
    more, less = (estimate(tmp_path / "home", p) for p in (made, without))
    assert more is not None
    assert less is not None
    assert more.seconds.likely > less.seconds.likely
