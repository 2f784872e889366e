"""Recall: a revoked model's rows are found wherever they lie, and only they are replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from finishing import Engines, do_work, finish
from processes import HERE
from scripted_engine import SCRIPT, Script, good

from pipelines.batch.export import export_jsonl, finished_rows
from pipelines.batch.job import BatchJob, Limits
from pipelines.batch.job_index import add_to_index, find_outputs, indexed, similar_jobs
from pipelines.batch.layout import journal_folder
from pipelines.batch.manifest import load_manifest
from pipelines.batch.plan import plan
from pipelines.batch.recall import rerun
from pipelines.batch.records import BatchManifest, ModelOnDisk
from pipelines.batch.run import Crew, run_batch
from pipelines.batch.stale import find_stale, look_at, parse_digest
from pipelines.batch.store import open_store
from pipelines.errors import (
    CommandFailed,
    ConfigError,
    JobNotFinished,
    LimitReached,
    ModelStillReleased,
    OutputOfAnotherJob,
    WrongKindOfPath,
)

MakeJob = Callable[..., BatchJob]
REVOKED, BETTER, THIRD = "ab" * 32, "cd" * 32, "ef" * 32
CREW = Crew(module="scripted_engine")


@pytest.fixture
def better(tiny_model: ModelOnDisk) -> ModelOnDisk:
    return tiny_model.model_copy(update={"weight_digest": BETTER})


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Workers of this test are scripted, and say what they were asked in a log."""
    log = tmp_path / "log"
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(SCRIPT, Script(log=log).model_dump_json())
    return log


def rows(output: str) -> list[dict[str, object]]:
    store = open_store(output)
    manifest = load_manifest(store)
    assert manifest is not None
    return list(finished_rows(store, manifest))


def asked(log: Path) -> int:
    return log.read_text().count("-1\n") if log.exists() else 0


def spoil(corpus: Path) -> None:
    """Two documents that no model ever sees."""
    (corpus / "a-empty.txt").write_text(" ")
    (corpus / "document-020b.txt").write_bytes(b"\xff")


@pytest.mark.parametrize("where", ["folder", pytest.param("s3", marks=pytest.mark.long)])
def test_rerun_replaces_what_the_revoked_model_wrote_and_nothing_else(
    make_job: MakeJob,
    tiny_model: ModelOnDisk,
    better: ModelOnDisk,
    corpus: Path,
    scripted: Path,
    where: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    spoil(corpus)
    job = make_job(**({"output": request.getfixturevalue("s3_output")} if where == "s3" else {}))
    before = finish(job, tiny_model)
    stale = look_at(job.output, REVOKED)
    assert stale is not None
    assert (stale.rows, stale.rows_in_all, stale.finished) == (40, 42, True)
    old_shards = {entry.name: open_store(job.output).read(entry.name) for entry in before.shards}

    after = rerun(job.output, REVOKED, better, CREW)
    assert asked(scripted) == 40
    assert (after.rows, after.rows_ok, after.errors) == (42, 40, before.errors)
    assert (after.weight_digest, after.rows_by_model) == (BETTER, {BETTER: 40})
    assert [(r.revoked, r.rows, r.weight_digest) for r in after.recalls] == [(REVOKED, 40, BETTER)]
    found = rows(job.output)
    assert [row["row"] for row in found] == list(range(42))
    assert {row["weight_digest"] for row in found if row["engine"]} == {BETTER}
    assert look_at(job.output, REVOKED) is None
    assert load_manifest(open_store(job.output)) == after

    names = set(open_store(job.output).names())
    assert {name for name in names if name.startswith(("recall/", "workers/"))} == set()
    assert len({name for name in names if name.startswith("superseded/")}) == 1
    for name, data in old_shards.items():  # who still reads the old manifest finds its shards
        assert open_store(job.output).read(name) == data
    assert export_jsonl(job.output, tmp_path / "rows.jsonl") == 42
    assert rerun(job.output, REVOKED, better, CREW) == after  # nothing is left to replace
    assert asked(scripted) == 40


def test_second_recall_replaces_only_rows_of_the_model_that_it_names(
    make_job: MakeJob, tiny_model: ModelOnDisk, better: ModelOnDisk, scripted: Path
) -> None:
    job = make_job()
    finish(job, tiny_model)
    store = open_store(job.output)
    manifest = rerun(job.output, REVOKED, better, CREW)
    mixed = mix(job, manifest, tiny_model)
    third = tiny_model.model_copy(update={"weight_digest": THIRD})
    before = asked(scripted)
    after = rerun(job.output, REVOKED, third, CREW)
    assert asked(scripted) - before == 8
    assert after.rows_by_model == {BETTER: 32, THIRD: 8}
    assert [recall.rows for recall in after.recalls] == [40, 8]
    unchanged = [e for e in after.shards if e in mixed.shards]
    assert len(unchanged) == 4
    digests = [row["weight_digest"] for row in rows(job.output)]
    assert digests == [BETTER] * 16 + [THIRD] * 8 + [BETTER] * 16
    assert len(list(store.names("superseded/"))) == 2


def mix(job: BatchJob, manifest: BatchManifest, model: ModelOnDisk) -> BatchManifest:
    """Put the first generation's third shard back in, as if it had never been replaced."""
    from pipelines.batch.layout import MANIFEST
    from pipelines.batch.records import ShardEntry
    from pipelines.canonical import record_bytes, sha256_bytes

    store, name = open_store(job.output), "shards/shard-000002.parquet"
    data = store.read(name)
    assert data is not None
    old = ShardEntry(name=name, sha256=sha256_bytes(data), size_bytes=len(data), rows=8)
    shards = (*manifest.shards[:2], old, *manifest.shards[3:])
    mixed = manifest.model_copy(
        update={"shards": shards, "rows_by_model": {BETTER: 32, model.weight_digest: 8}}
    )
    store.replace(MANIFEST, record_bytes(mixed))
    return mixed


def test_unfinished_job_of_a_revoked_model_is_found_and_finished_by_the_next(
    make_job: MakeJob, tiny_model: ModelOnDisk, better: ModelOnDisk, corpus: Path, scripted: Path
) -> None:
    spoil(corpus)
    job = make_job()
    planned = plan(job, tiny_model)
    assert [s.rows for s in find_stale(None, [str(Path(job.output).parent)], REVOKED)] == [0]
    low = job.model_copy(update={"limits": Limits(max_error_rate=1, max_tokens=800)})
    with pytest.raises(LimitReached):  # stopped half way
        do_work(low, tiny_model, Engines())
    journal = journal_folder(job.output, planned.job_id)
    stale = look_at(job.output, REVOKED)
    assert stale is not None
    assert not stale.finished
    assert stale.rows + stale.rows_journaled > 0
    assert journal.exists() or stale.rows
    after = rerun(job.output, REVOKED, better, CREW)
    assert asked(scripted) == 40
    assert (after.rows, after.rows_by_model) == (42, {BETTER: 40})
    assert {row["weight_digest"] for row in rows(job.output) if row["engine"]} == {BETTER}
    with pytest.raises(JobNotFinished):
        rerun(str(Path(job.output).parent), REVOKED, better, CREW)


def test_rerun_that_is_killed_goes_on_and_loses_nothing(
    make_job: MakeJob,
    tiny_model: ModelOnDisk,
    better: ModelOnDisk,
    scripted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = make_job()
    before = finish(job, tiny_model)
    kills = 0
    for moment in (12, 30, 20):
        monkeypatch.setenv(SCRIPT, Script(log=scripted, kill_at=moment).model_dump_json())
        try:
            rerun(job.output, REVOKED, better, CREW)
        except CommandFailed as error:
            kills += error.returncode == -9
            assert load_manifest(open_store(job.output)) == before  # readers see the old rows
            assert len(rows(job.output)) == 40
    assert kills
    monkeypatch.setenv(SCRIPT, Script(log=scripted).model_dump_json())
    after = rerun(job.output, REVOKED, better, CREW)
    assert after.rows_by_model == {BETTER: 40}
    assert [json.loads(str(row["output"]))["number"] for row in rows(job.output)] == [
        json.loads(good(number))["number"] for number in range(40)
    ]


def test_rerun_without_another_release_is_refused(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = make_job()
    finish(job, tiny_model)
    with pytest.raises(ModelStillReleased, match="Promote other weights"):
        rerun(job.output, REVOKED, tiny_model, CREW)
    with pytest.raises(ConfigError, match="all 64 hex digits"):
        parse_digest("abab")


def test_job_file_still_means_the_output_whose_rows_were_replaced(
    make_job: MakeJob, tiny_model: ModelOnDisk, better: ModelOnDisk
) -> None:
    job = make_job()
    finish(job, tiny_model)
    after = rerun(job.output, REVOKED, better, CREW)
    assert run_batch(job, better, worker_module="never_started") == after
    with pytest.raises(OutputOfAnotherJob, match="another weight digest"):
        run_batch(job, tiny_model.model_copy(update={"weight_digest": THIRD}))


def test_outputs_are_found_by_index_and_by_place(
    make_job: MakeJob, tiny_model: ModelOnDisk, s3_output: str, tmp_path: Path
) -> None:
    home, folder = tmp_path / "home", tmp_path / "results"
    jobs = [
        make_job(output=str(folder / "one")),
        make_job(output=str(folder / "deep" / "two"), prompt={"template": "Else? {{ text }}"}),
        make_job(output=f"{s3_output}/three"),
    ]
    for job in jobs:
        finish(job, tiny_model)
        add_to_index(home, job.output, plan(job, tiny_model))
    outputs = sorted(job.output for job in jobs)
    assert sorted(entry.output for entry in indexed(home)) == outputs
    assert [stale.output for stale in find_stale(home, [], REVOKED)] == outputs
    assert list(find_outputs(str(folder))) == [str(folder / "deep" / "two"), str(folder / "one")]
    bucket = s3_output.rpartition("/")[0]
    assert [stale.output for stale in find_stale(None, [bucket], REVOKED)] == [f"{s3_output}/three"]
    assert find_stale(home, [str(folder)], BETTER) == []
    with pytest.raises(WrongKindOfPath):
        find_stale(None, [str(tmp_path / "nowhere")], REVOKED)


def test_adapter_is_found_like_the_weights_that_it_runs_on(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job = make_job()
    finish(job, tiny_model)
    store = open_store(job.output)
    manifest = load_manifest(store)
    assert manifest is not None
    from pipelines.batch.layout import MANIFEST
    from pipelines.canonical import record_bytes

    store.replace(
        MANIFEST, record_bytes(manifest.model_copy(update={"adapter_digest": THIRD}))
    )  # as of a job with an adapter
    stale = look_at(job.output, THIRD)
    assert stale is not None
    assert stale.rows == 40


def test_plan_shows_jobs_over_the_same_corpus_and_in_what_they_differ(
    make_job: MakeJob, tiny_model: ModelOnDisk, better: ModelOnDisk, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first = make_job(output=str(tmp_path / "first"))
    finish(first, tiny_model)
    add_to_index(home, first.output, plan(first, tiny_model))
    other = make_job(output=str(tmp_path / "other"), prompt={"template": "Else? {{ text }}"})
    add_to_index(home, other.output, plan(other, tiny_model))
    new = make_job(output=str(tmp_path / "new"))
    found = similar_jobs(home, new.output, plan(new, better))
    assert [(one.name, one.finished, one.differs) for one in found] == [
        ("colours", True, ("weight digest",)),
        ("colours", False, ("prompt", "weight digest")),
    ]
    assert found[0].output == first.output


def test_changed_model_reuses_nothing(
    make_job: MakeJob, tiny_model: ModelOnDisk, better: ModelOnDisk
) -> None:
    job = make_job()
    finish(job, tiny_model)
    with pytest.raises(OutputOfAnotherJob, match="another weight digest"):
        run_batch(job, better)
