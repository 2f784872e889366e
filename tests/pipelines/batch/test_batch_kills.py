"""Nothing lost, nothing twice: real worker processes, killed at seeded moments, started again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from finishing import rows_of
from scripted_engine import SCRIPT, Script

from pipelines.batch.export import export_jsonl
from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import BatchManifest, ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.batch.status import status
from pipelines.canonical import record_bytes
from pipelines.errors import CommandFailed, JobNotFinished, OutputDamaged, TooManyErrors
from pipelines.records import RunInfo, read_record

MakeJob = Callable[..., BatchJob]
Run = Callable[..., BatchManifest]
HERE = Path(__file__).parent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tiny_model: ModelOnDisk) -> Run:
    """`run_batch` with workers whose engine is scripted."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))

    def run_it(job: BatchJob, script: Script, workers: int = 1) -> BatchManifest:
        monkeypatch.setenv(SCRIPT, script.model_dump_json())
        return run_batch(job, tiny_model, workers=workers, worker_module="scripted_engine")

    return run_it


def check_whole(job: BatchJob, model: ModelOnDisk, manifest: BatchManifest, rows: int) -> None:
    """Every planned row once, and counts that say so."""
    planned = plan(job, model)
    found = rows_of(job.output, planned)
    assert [row["row"] for row in found] == list(range(rows))
    assert manifest.rows == rows == manifest.rows_ok + sum(manifest.errors.values())
    assert sum(entry.rows for entry in manifest.shards) == rows
    assert Counter(row["error_class"] for row in found if row["error_class"]) == manifest.errors
    assert manifest.tokens.completion == sum(row["completion_tokens"] for row in found)
    assert sum(manifest.engines.values()) == sum(bool(row["engine"]) for row in found)
    names = {path.name for path in Path(job.output).iterdir()} - {"plan", "shards"}
    assert names == {"job.json", "manifest.json", "report.html", "report.md", "run.json"}
    assert not list(Path(job.output).rglob("*.partial"))


def chain_of_kills(job: BatchJob, run: Run, log: Path, seed: int, workers: int) -> BatchManifest:
    """Run a job, killing its workers at seeded moments, until it is done."""
    job = job.model_copy(update={"engine": job.engine.model_copy(update={"restarts": 0})})
    moments, codes = random.Random(seed), []
    while True:
        moment = moments.randint(1, 70) if len(codes) < 6 else None
        try:
            manifest = run(job, Script(log=log, kill_at=moment), workers)
        except CommandFailed as error:
            codes.append(error.returncode)
        else:
            break
        assert not status(job.output).finished
    assert len(codes) >= 3
    assert set(codes) == {-9}
    return manifest


@pytest.mark.parametrize(("seed", "workers"), [(1, 1), (2, 2)])
def test_killed_workers_lose_no_row_and_write_none_twice(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run, tmp_path: Path, seed: int, workers: int
) -> None:
    job, log = make_job(), tmp_path / "log"
    Path(job.corpus.path, "zz.txt").write_bytes(b"\xff")
    manifest = chain_of_kills(job, run, log, seed, workers)
    check_whole(job, tiny_model, manifest, 41)
    starts, requests = read_log(log)
    if workers == 1:  # a kill costs at most what was in flight
        again = sum(count - 1 for count in requests.values())
        assert again <= (starts - 1) * job.engine.max_in_flight


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 30))
def test_killed_workers_lose_no_row_whatever_the_moment(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run, tmp_path: Path, seed: int
) -> None:
    job = make_job()
    manifest = chain_of_kills(job, run, tmp_path / "log", seed, workers=1 + seed % 3)
    check_whole(job, tiny_model, manifest, 40)


def read_log(log: Path) -> tuple[int, Counter[str]]:
    """How many engines were started, and how often each request was made."""
    lines = Counter(log.read_text().splitlines())
    starts = lines.pop("start")
    lines.pop("close", None)
    return starts, lines


def test_a_finished_job_runs_again_without_an_engine(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run, tmp_path: Path
) -> None:
    job, log = make_job(), tmp_path / "log"
    first = run(job, Script(log=log))
    files = {path: path.stat().st_mtime_ns for path in Path(job.output).rglob("*")}
    assert run(job, Script(log=log)) == first
    assert read_log(log)[0] == 1
    assert {path: path.stat().st_mtime_ns for path in Path(job.output).rglob("*")} == files
    check_whole(job, tiny_model, first, 40)


def test_what_a_run_leaves_speaks_for_itself(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run, tmp_path: Path
) -> None:
    job = make_job(limits={"max_error_rate": 0.2}, output_schema=make_job().output_schema)
    script = Script(answers={7: ("<b>no</b>", "<b>no</b> | `x`")})
    manifest = run(job, script)
    output = Path(job.output)
    assert (output / "manifest.json").read_bytes() == record_bytes(manifest)
    assert manifest.errors == {"invalid_json": 1}
    assert (manifest.classification, manifest.destination) == ("internal", "local engine")
    assert (manifest.weight_digest, manifest.engines) == (
        tiny_model.weight_digest,
        {"scripted 1": 40},
    )
    info = read_record(output / "run.json", RunInfo)
    assert (info.stage, info.details["rows_generated"]) == ("batch", 40)
    report = (output / "report.md").read_text()
    assert "39 of 40 rows answered (97.5 %)" in report
    assert "<b>" not in report
    assert report.count("document-0") == 21  # twenty sample rows and the error's example
    now = status(job.output)
    assert (now.finished, now.rows_committed, now.rows_journaled) == (True, 40, 0)
    assert export_jsonl(job.output, tmp_path / "rows.jsonl") == 40
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(40))
    assert (lines[7]["output"], lines[7]["error_class"]) == (None, "invalid_json")
    assert lines[8]["output"] == {"label": "blue", "number": 8}


def test_the_manifest_is_the_same_bytes_for_the_same_rows(
    make_job: MakeJob, run: Run, tmp_path: Path
) -> None:
    one = run(make_job(output=str(tmp_path / "one")), Script())
    two = run(make_job(output=str(tmp_path / "two")), Script(), workers=2)
    assert one.shards == two.shards
    assert one == two


def test_export_refuses_what_is_not_finished_or_not_as_recorded(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run, tmp_path: Path
) -> None:
    job, target = make_job(), tmp_path / "rows.jsonl"
    with pytest.raises(JobNotFinished, match="no job was planned"):
        status(job.output)
    plan(job, tiny_model)
    with pytest.raises(JobNotFinished, match=r"no manifest\.json"):
        export_jsonl(job.output, target)
    run(job, Script())
    shard = Path(job.output, "shards", "shard-000002.parquet")
    shard.write_bytes(shard.read_bytes() + b" ")
    with pytest.raises(OutputDamaged, match="manifest says"):
        export_jsonl(job.output, target)
    shard.unlink()
    with pytest.raises(OutputDamaged, match="not there"):
        export_jsonl(job.output, target)
    assert not target.exists()


def test_a_worker_that_stops_says_why_through_its_process(make_job: MakeJob, run: Run) -> None:
    job = make_job(limits={"max_error_rate": 0.1})
    script = Script(answers=dict.fromkeys(range(40), ("no", "no")))
    with pytest.raises(TooManyErrors, match="5 of 40 rows are errors: 5 invalid_json") as caught:
        run(job, script)
    assert caught.value.code == 1


def test_workers_die_with_the_process_that_runs_the_job(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    job, log = make_job(), tmp_path / "log"
    program = (
        "import sys; from pipelines.batch.job import BatchJob; "
        "from pipelines.batch.records import ModelOnDisk; "
        "from pipelines.batch.run import run_batch; "
        "run_batch(BatchJob.model_validate_json(sys.argv[1]), "
        "ModelOnDisk.model_validate_json(sys.argv[2]), workers=2, worker_module='scripted_engine')"
    )
    script = Script(log=log, slow_s=0.2)
    arguments = [job.model_dump_json(), tiny_model.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(HERE), SCRIPT: script.model_dump_json()}
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment)
    while not log.exists() or log.read_text().count("-1") < 20:
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    size = -1
    while size != (size := log.stat().st_size):  # whoever lives would go on writing
        time.sleep(1)
    assert read_log(log)[1].total() < 40
