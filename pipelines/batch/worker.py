"""Work: one process that takes shards, feeds an engine across their borders, and commits them.

Started as `python -m pipelines.batch.worker` by `run`. Worker i of n begins at shard i·N/n
(rounded down) and wraps around, passing over what is committed; so n workers need no queue, and
little is done twice at the tail.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pipelines.batch.answer import Asked, judge, unasked
from pipelines.batch.committer import Committer
from pipelines.batch.egress import redactor, sending_store
from pipelines.batch.engine import Completion, Engine, EngineConfig, MakeEngine, RequestRefused
from pipelines.batch.feed import Feed, Window
from pipelines.batch.in_flight import InFlight
from pipelines.batch.layout import JOB
from pipelines.batch.output_schema import AnswerFault, OutputSchema
from pipelines.batch.records import JobPlan, Stopped, WorkerReport, WorkerRequest
from pipelines.batch.rows import Row
from pipelines.batch.shard import OpenShard
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.taking_up import load_plan
from pipelines.batch.watch import Watch
from pipelines.errors import ConfigError, EngineDied, OutputDamaged, TooManyErrors, WeighbridgeError
from pipelines.progress import report
from pipelines.subprocesses import serve


def work(request: WorkerRequest, make_engine: MakeEngine) -> WorkerReport:
    """Do a worker's share of a planned job, and whatever else of it is left.

    The engine is started when the first row needs it, so never for a job that is done. Raises
    OutputDamaged when the plan is not as recorded, TooManyErrors when more rows have failed than
    the job's limit allows at all, ConfigError when the engine cannot hold the schema, JobCancelled
    and LimitReached when it was told to stop, or found that it must.
    """
    store = open_store(request.job.output)
    plan = load_plan(store)
    if plan is None:
        raise OutputDamaged(store.location, JOB, "a worker finds no plan")
    sending = sending_store(request.job, request.egress, plan.job_id)
    worker = _Worker(request, plan, sending, make_engine)
    try:
        worker.run()
    finally:
        worker.close()
    return worker.report()


class _Worker:
    """The state of one worker: open shards, requests in flight, and what to say about it."""

    def __init__(
        self, request: WorkerRequest, plan: JobPlan, store: OutputStore, make_engine: MakeEngine
    ) -> None:
        self._request, self._plan, self._store = request, plan, store
        self._make_engine = make_engine
        self._schema = OutputSchema(request.job.output_schema)
        self._committer = Committer(self._schema, redactor(request.job, request.egress))
        self._in_flight: dict[str, tuple[Asked, OpenShard]] = {}
        self._feed = Feed(request, plan, store)
        self._marks: InFlight | None = None
        self._open: dict[int, OpenShard] = {}
        self._engine_died = False
        self._errors = Counter(plan.planned_errors)
        self._example = ""
        self._watch = Watch(request, plan, store)
        self._rows_done = 0
        self._generated = self._resumed = 0
        self._start_s = self._generate_s = self._stepping_s = 0.0
        self._first_step_at = self._last_step_at = 0.0

    def run(self) -> None:
        """Feed the engine until every shard is committed, by this worker or another.

        At the end of a pass each of its shards is: whatever others had not committed was done here.
        """
        self._watch.start()
        for shards in self._plan.passes():
            if self._request.suspects:
                self._drain(self._feed.suspected(shards), self._request.suspects_at_once)
            self._drain(self._feed.rest(shards), None)
            self._committer.finish()
            if self._watch.stopping:
                break
        self._watch.raise_if_stopped()

    def _drain(self, windows: Iterator[Window], at_once: int | None) -> None:
        """Have all rows of these windows settled, with `at_once` of them in the engine at most."""
        asked = self._asked(windows)
        while True:
            self._fill(asked, at_once)
            if not self._in_flight:
                return
            for completion in self._step():
                self._end(completion)
            self._committer.check()

    def _fill(self, asked: Iterator[tuple[Asked, OpenShard]], at_once: int | None) -> None:
        """Keep the engine's queue full; afterwards nothing is in flight only if nothing is left."""
        while not self._watch.stopping and len(self._in_flight) < (at_once or self._bound):
            item = next(asked, None)
            if item is None:
                return
            self._send(*item)

    @property
    def _bound(self) -> int:
        """Requests in flight: as the job says, or twice what the engine runs at once."""
        given = self._request.job.engine.max_in_flight
        if given is not None or "_engine" not in self.__dict__:
            return given or 1
        return 2 * self._engine.max_num_seqs

    def _asked(self, windows: Iterator[Window]) -> Iterator[tuple[Asked, OpenShard]]:
        """Rows that the engine has to answer; others are settled on the way."""
        for window in windows:
            self._count(window.passed_rows)
            for shard in window.opened:
                self._open[shard.index] = shard
                self._resumed += shard.resumed
                self._count(shard.resumed)
                if shard.complete:
                    self._commit(shard)
            for prepared in window.rows:
                if self._request.workers > 1 and prepared.shard.committed_elsewhere:
                    self._open.pop(prepared.shard.index, None)
                    self._count(1)
                    continue
                if (fault := prepared.fault) is None:
                    yield prepared.asked(), prepared.shard
                    continue
                row = unasked(prepared.planned, fault.error_class, str(fault))
                self._settle(row, prepared.shard, planned=prepared.planned.error_class is not None)

    def _send(self, asked: Asked, shard: OpenShard) -> None:
        engine = self._engine
        request = asked.next_request()
        if self._marks is not None:
            self._marks.enter(request.row)
        try:
            engine.add(request)
        except RequestRefused as error:
            self._leave(request.row)
            self._settle(asked.failed("request_refused", str(error), engine.name), shard)
        except Exception as error:  # whatever else it raises, it may not be asked on
            raise self._death(error) from error
        else:
            self._in_flight[request.key] = (asked, shard)

    def _leave(self, row: int) -> None:
        if self._marks is not None:
            self._marks.leave(row)

    def _step(self) -> list[Completion]:
        before = time.monotonic()
        self._first_step_at = self._first_step_at or before
        try:
            completions = self._engine.step()
        except Exception as error:  # out of memory, or any fault: some row in it becomes an error
            raise self._death(error) from error
        self._last_step_at = time.monotonic()
        self._stepping_s += self._last_step_at - before
        return completions

    def _death(self, error: Exception) -> EngineDied:
        self._engine_died = True
        how = "".join(traceback.format_exception(error, limit=-3))
        return EngineDied(self._engine.name, max(1, len(self._in_flight)), how)

    def _end(self, completion: Completion) -> None:
        """One request ended: keep its answer, ask again, or keep its error."""
        asked, shard = self._in_flight.pop(completion.key)
        self._leave(asked.planned.row)
        asked.take(completion)
        try:
            row = self._answer(asked, completion)
        except AnswerFault as fault:
            if asked.attempts < asked.wanted.sampling.attempts:
                if not self._watch.stopping:  # else it is asked anew when the job is resumed
                    self._send(asked, shard)
                return
            row = asked.failed(fault.error_class, str(fault), self._engine.name)
        self._generated += 1
        self._settle(row, shard)

    def _answer(self, asked: Asked, completion: Completion) -> Row:
        """The row with its answer; raises AnswerFault."""
        if self._plan.pooled is not None:
            return asked.pooled(self._plan.pooled, self._engine.name)
        return asked.answered(judge(completion, asked.wanted.schema), self._engine.name)

    def _settle(self, row: Row, shard: OpenShard, *, planned: bool = False) -> None:
        shard.add(row)
        self._watch.add(row)
        self._count(1)
        if row.error_class is not None:
            self._count_error(row, planned)
        if shard.complete:
            self._commit(shard)

    def _commit(self, shard: OpenShard) -> None:
        del self._open[shard.index]
        self._committer.commit(shard)

    def _count(self, rows: int) -> None:
        self._rows_done += rows
        report(self._rows_done, self._plan.rows, "rows", f"batch {self._plan.job.name}")

    def _count_error(self, row: Row, planned: bool) -> None:
        """Stop as soon as the job can no longer stay within its limit."""
        if not planned:  # those are counted from the start
            self._errors[str(row.error_class)] += 1
            self._example = f"{row.document_id}: {row.error_message}"
        limit = self._request.job.limits.max_error_rate
        if self._errors.total() > limit * self._plan.rows:
            raise TooManyErrors(self._plan.job.name, self._errors, self._plan.rows, self._example)

    @cached_property
    def _engine(self) -> Engine:
        job, before = self._request.job, time.monotonic()
        engine = self._make_engine(
            EngineConfig(
                weights=self._request.model.weights,
                sampling=job.sampling,
                output_schema=job.output_schema,
                max_model_len=self._plan.max_model_len,
                settings=job.engine,
                task=job.task,
                own_schemas=job.corpus.reading == "openai",
                adapter=self._request.model.adapter,
            )
        )
        self._started_at = time.monotonic()
        self._start_s = self._started_at - before
        bound = job.engine.max_in_flight or 2 * engine.max_num_seqs
        if bound <= engine.max_num_seqs:
            raise ConfigError(
                "engine.max_in_flight",
                f"{bound}, and the engine runs {engine.max_num_seqs} requests at once: it would "
                "wait for more",
                "Raise it, leave it out, or lower engine.max_num_seqs.",
            )
        if (marks := self._request.in_flight) is not None:
            self._marks = InFlight(marks, max(bound, self._request.suspects_at_once) + 1)
        return engine

    def close(self) -> None:
        """Leave open shards to their journals and give the engine's memory back."""
        self._watch.close()
        self._feed.close()
        self._committer.close()
        for shard in self._open.values():
            shard.close()
        if "_engine" in self.__dict__:
            self._generate_s = time.monotonic() - self._started_at
            if not self._engine_died:  # a dead one may never return from this
                self._engine.close()

    def report(self) -> WorkerReport:
        """What was done, for run.json."""
        started = "_engine" in self.__dict__
        window_s = self._last_step_at - self._first_step_at
        return WorkerReport(
            rows_generated=self._generated,
            rows_resumed=self._resumed,
            shards_committed=self._committer.won,
            shards_lost=self._committer.lost,
            engine=self._engine.name if started else "",
            engine_start_s=round(self._start_s, 3),
            generate_s=round(self._generate_s, 3),
            stepping_s=round(self._stepping_s, 3),
            occupancy=round(self._stepping_s / window_s, 4) if window_s else 0.0,
            max_num_seqs=self._engine.max_num_seqs if started else 0,
            max_in_flight=self._bound if started else 0,
            cpu_s=round(time.process_time(), 3),
        )


def answer(data: bytes, make_engine: MakeEngine) -> Any:
    """A request as `run` wrote it to the report that `run` reads; our own errors go with it."""
    request = WorkerRequest.model_validate_json(data)
    try:
        done = work(request, make_engine)
    except WeighbridgeError as error:
        stopped = Stopped(error=type(error).__name__, message=str(error))
        done = WorkerReport(stopped=stopped)
    return done.model_dump(mode="json")


def main() -> None:
    """The child process: an engine is imported only when a row needs it."""
    from pipelines.batch.engine_choice import start_engine

    serve(lambda data: answer(data, start_engine))


if __name__ == "__main__":
    main()
