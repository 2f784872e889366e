"""An engine that dies on a document: that document is an error row, and all others are answered."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finishing import Engines, rows_of
from scripted_engine import SCRIPT, Script

from pipelines.batch.in_flight import InFlight, rows_in
from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import BatchManifest, ModelOnDisk, WorkerRequest
from pipelines.batch.recovery import diagnose
from pipelines.batch.run import run_batch
from pipelines.batch.status import status
from pipelines.batch.worker import answer
from pipelines.errors import CommandFailed, EngineDied, EngineKeepsDying
from pipelines.records import RunInfo, read_record

MakeJob = Callable[..., BatchJob]
Run = Callable[[BatchJob, Script], BatchManifest]
HERE = Path(__file__).parent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tiny_model: ModelOnDisk) -> Run:
    """`run_batch` with workers in processes of their own."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))

    def run_it(job: BatchJob, script: Script) -> BatchManifest:
        monkeypatch.setenv(SCRIPT, script.model_dump_json())
        return run_batch(job, tiny_model, worker_module="scripted_engine")

    return run_it


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, tiny_model: ModelOnDisk) -> Run:
    """The same without the processes, which take seconds each: engines that raise, not exit."""

    def run_it(job: BatchJob, script: Script) -> BatchManifest:
        def in_place(_: str, request: WorkerRequest, **kept: object) -> Any:
            return answer(request.model_dump_json().encode(), Engines(script))

        monkeypatch.setattr("pipelines.batch.recovery.run_module", in_place)
        return run_batch(job, tiny_model)

    return run_it


def errors(job: BatchJob, model: ModelOnDisk) -> dict[int, tuple[str, str]]:
    """Class and message of every error row; each planned row must be there once."""
    rows = rows_of(job.output, plan(job, model))
    assert [row["row"] for row in rows] == list(range(40))
    failed = [row for row in rows if row["error_class"]]
    return {row["row"]: (row["error_class"], row["error_message"]) for row in failed}


def test_a_document_that_ends_the_engines_process_is_the_only_error_row(
    make_job: MakeJob, tiny_model: ModelOnDisk, run: Run
) -> None:
    job = make_job()
    assert run(job, Script(exits=(7,))).errors == {"engine_died": 1}
    ((row, (kind, message)),) = errors(job, tiny_model).items()
    assert (row, kind) == (7, "engine_died")
    assert "exited with code 3" in message
    assert "scripted: out of memory" in message
    details = read_record(Path(job.output, "run.json"), RunInfo).details
    assert details["engine_deaths"] == 3  # among twelve, alone, and alone again


def test_two_documents_that_make_the_engine_raise_are_the_only_error_rows(
    make_job: MakeJob, tiny_model: ModelOnDisk, run_here: Run
) -> None:
    job = make_job()
    assert run_here(job, Script(raises=(7, 23))).errors == {"engine_died": 2}
    found = errors(job, tiny_model)
    assert set(found) == {7, 23}
    assert all("MemoryError: scripted: no memory" in message for _, message in found.values())


def test_documents_that_kill_only_in_company_are_answered(
    make_job: MakeJob, tiny_model: ModelOnDisk, run_here: Run
) -> None:
    job = make_job()
    manifest = run_here(job, Script(company=(3, 4)))
    assert (manifest.rows_ok, errors(job, tiny_model)) == (40, {})


def test_an_engine_that_keeps_dying_is_not_started_for_ever(
    make_job: MakeJob, tiny_model: ModelOnDisk, run_here: Run
) -> None:
    job = make_job(engine={"max_in_flight": 12, "restarts": 1})
    with pytest.raises(EngineKeepsDying, match="died 2 times, and no row"):
        run_here(job, Script(raises=tuple(range(8, 40))))
    assert not status(job.output).finished
    never = make_job(engine={"max_in_flight": 12, "restarts": 0})
    with pytest.raises(EngineDied, match="requests in it: Traceback"):
        run_here(never, Script(raises=tuple(range(8, 40))))


@pytest.mark.parametrize(
    ("returncode", "output", "death"),
    [
        (-9, "", True),  # the kernel's killer, for one
        (-6, "terminate called", True),
        (1, "Traceback (most recent call last):\n...\nKeyError: 3", False),  # a fault of ours
        (1, "CUDA error", True),
        (-15, "", False),  # told to end
        (-2, "", False),
    ],
)
def test_a_fault_of_ours_or_an_order_to_end_is_blamed_on_no_document(
    make_job: MakeJob,
    tiny_model: ModelOnDisk,
    monkeypatch: pytest.MonkeyPatch,
    returncode: int,
    output: str,
    death: bool,
) -> None:
    starts: list[WorkerRequest] = []

    def falls(_: str, request: WorkerRequest, **kept: object) -> Any:
        assert request.in_flight is not None
        InFlight(request.in_flight, 2).enter(5)
        starts.append(request)
        raise CommandFailed(["worker"], returncode, output)

    monkeypatch.setattr("pipelines.batch.recovery.run_module", falls)
    with pytest.raises(EngineKeepsDying if death else CommandFailed):
        run_batch(make_job(engine={"restarts": 2}), tiny_model)
    assert len(starts) == (3 if death else 1)
    assert list(starts[-1].killers) == ([5] if death else [])


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
