"""An engine that dies on a document: that document is an error row, and all others are answered."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from finishing import rows_of
from scripted_engine import SCRIPT, Script

from pipelines.batch.in_flight import InFlight, rows_in
from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import BatchManifest, ModelOnDisk
from pipelines.batch.recovery import diagnose
from pipelines.batch.run import run_batch
from pipelines.batch.status import status
from pipelines.errors import EngineDied, EngineKeepsDying
from pipelines.records import RunInfo, read_record

MakeJob = Callable[..., BatchJob]
Run = Callable[[BatchJob, Script], BatchManifest]
HERE = Path(__file__).parent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tiny_model: ModelOnDisk) -> Run:
    monkeypatch.setenv("PYTHONPATH", str(HERE))

    def run_it(job: BatchJob, script: Script) -> BatchManifest:
        monkeypatch.setenv(SCRIPT, script.model_dump_json())
        return run_batch(job, tiny_model, worker_module="scripted_engine")

    return run_it


def test_two_documents_that_kill_the_engine_are_the_only_error_rows(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run
) -> None:
    job = make_job()
    manifest = run(job, Script(exits=(7,), raises=(23,)))
    rows = rows_of(job.output, plan(job, tiny_model))
    assert [row["row"] for row in rows] == list(range(40))
    assert {row["row"] for row in rows if row["error_class"]} == {7, 23}
    assert manifest.errors == {"engine_died": 2}
    assert "exited with code 3" in rows[7]["error_message"]
    assert "scripted: out of memory" in rows[7]["error_message"]
    assert "MemoryError: scripted: no memory" in rows[23]["error_message"]
    assert rows[7]["document_id"] == "document-007.txt"
    details = read_record(Path(job.output, "run.json"), RunInfo).details
    assert 4 <= int(details["engine_deaths"]) <= 8


def test_documents_that_kill_only_in_company_are_answered(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run
) -> None:
    job = make_job()
    manifest = run(job, Script(company=(3, 4), max_num_seqs=8))
    assert (manifest.rows_ok, manifest.errors) == (40, {})


def test_an_engine_that_keeps_dying_is_not_started_for_ever(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run
) -> None:
    job = make_job(engine={"max_in_flight": 12, "restarts": 1})
    with pytest.raises(EngineKeepsDying, match="died 2 times, and no row"):
        run(job, Script(exits=tuple(range(8, 40))))
    assert not status(job.output).finished
    never = make_job(engine={"max_in_flight": 12, "restarts": 0})
    with pytest.raises(EngineDied, match="requests in it: Traceback"):
        run(never, Script(raises=tuple(range(8, 40))))


def test_marks_outlive_the_process_that_made_them(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "in-flight"
    assert rows_in(path) == frozenset()
    marks = InFlight(path, 3)
    for row in (0, 5, 10**12):
        marks.enter(row)
    marks.enter(5)  # a second attempt
    marks.leave(0)
    marks.enter(7)
    assert rows_in(path) == {5, 7, 10**12}
    marks.close()
    assert rows_in(path) == {5, 7, 10**12}


def starts_until_done(rows: int, culprits: set[int], bound: int, *, observed: bool) -> int:
    """Play the protocol without processes: the number of engine starts that a job takes.

    Not `observed`, the process that looks dies with every engine, and knows only the marks.
    """
    left, deaths, shuffled = set(range(rows)), list[frozenset[int]](), random.Random(rows)
    for starts in range(1, 1000):
        found = diagnose(deaths, observed=observed and starts > 1)
        left -= found.killers
        queues = [(sorted(set(found.suspects) & left), found.at_once), (sorted(left), bound)]
        for queue, at_once in queues:
            engine: list[int] = []
            queue = [row for row in queue if row in left]
            while queue or engine:
                while queue and len(engine) < at_once:
                    engine.append(queue.pop(0))
                if culprits & set(engine):
                    deaths.append(frozenset(engine))
                    break
                left.discard(engine.pop(shuffled.randrange(len(engine))))
            if engine:
                break
        else:
            assert left == set()
            assert found.killers == culprits
            return starts
    raise AssertionError("the job never ended")


@pytest.mark.parametrize("observed", [True, False])
def test_each_culprit_costs_five_starts_or_so_and_no_innocent_is_blamed(observed: bool) -> None:
    for seed in range(20):
        drawn = random.Random(seed)
        culprits = set(drawn.sample(range(2000), drawn.randint(0, 4)))
        starts = starts_until_done(2000, culprits, 512, observed=observed)
        assert starts <= 1 + (6 if observed else 7) * len(culprits)


def test_kills_by_hand_make_no_suspects_unless_they_share_rows() -> None:
    one, two = frozenset(range(100)), frozenset(range(90, 200))
    assert diagnose([one], observed=False).suspects == ()
    assert diagnose([one, frozenset({300})], observed=False).suspects == ()
    assert diagnose([one, two], observed=False).suspects == tuple(range(90, 100))
    assert diagnose([one], observed=True).suspects == tuple(range(100))
