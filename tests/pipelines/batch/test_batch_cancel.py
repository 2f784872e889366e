"""Cancel and resume: workers stop after what is in flight, and everything goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from finishing import Engines, do_work
from processes import check_once_each, end, start, wait_for
from scripted_engine import Script

from pipelines.batch.cancel import cancel, cancelled_at, lift
from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.batch.status import status
from pipelines.batch.taking_up import named_job
from pipelines.errors import JobCancelled, JobNotFinished

MakeJob = Callable[..., BatchJob]


@pytest.mark.parametrize("where", ["folder", pytest.param("s3", marks=pytest.mark.long)])
def test_cancelled_job_stops_within_seconds_and_resumes_where_it_stopped(
    make_job: MakeJob,
    tiny_model: ModelOnDisk,
    tmp_path: Path,
    where: str,
    request: pytest.FixtureRequest,
) -> None:
    output = {"output": request.getfixturevalue("s3_output")} if where == "s3" else {}
    job, log = make_job(**output), tmp_path / "log"
    process = start(job, tiny_model, Script(log=log, slow_s=0.3))
    wait_for(lambda: log.exists() and "-1" in log.read_text(), process)
    wait_for(lambda: status(job.output).workers_alive, process)
    assert cancel(job.output)
    code, said = end(process)
    assert code == 1
    assert said.startswith("JobCancelled")
    stopped = status(job.output)
    assert (stopped.state, stopped.workers_alive) == ("cancelled", ())
    asked = log.read_text().count("-1\n")
    assert stopped.rows_committed + stopped.rows_journaled == asked < 40  # nothing in flight lost
    assert stopped.spent.completion_tokens == 7 * asked
    with pytest.raises(JobCancelled, match="batch resume"):
        run_batch(job, tiny_model, worker_module="never_started")
    lift(job.output)
    assert cancelled_at(job.output) is None
    assert end(start(job, tiny_model, Script(log=log)))[0] == 0
    assert log.read_text().count("-1\n") == 40  # and no row was asked twice
    check_once_each(job, 40)
    assert status(job.output).state == "finished"
    assert not cancel(job.output)


def test_cancelled_job_starts_no_engine(make_job: MakeJob, tiny_model: ModelOnDisk) -> None:
    job, engines = make_job(), Engines()
    with pytest.raises(JobNotFinished, match="no job was planned"):
        cancel(job.output)
    plan(job, tiny_model)
    assert status(job.output).state == "planned"
    cancel(job.output)
    with pytest.raises(JobCancelled):
        do_work(job, tiny_model, engines)
    assert engines.made == []


def test_job_is_named_by_its_file_or_by_its_output(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    plan(job, tiny_model)
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(job.model_dump(mode="json")))
    assert named_job(str(file)).output == job.output
    monkeypatch.chdir(tmp_path)
    assert named_job("out").model_dump() == job.model_dump()
    with pytest.raises(JobNotFinished, match="no job was planned"):
        named_job(os.fspath(tmp_path))
