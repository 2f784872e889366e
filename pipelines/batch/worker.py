"""Work: one process that takes shards, feeds an engine across their borders, and commits them.

Started as `python -m pipelines.batch.worker` by `run`. Worker i of n begins at shard i·N/n
(rounded down) and wraps around, passing over what is committed; so n workers need no queue, and do
at most one shard each twice at the tail.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pipelines.batch.answer import Asked, judge, unasked
from pipelines.batch.committer import Committer
from pipelines.batch.corpus import Document, reread
from pipelines.batch.engine import Completion, Engine, EngineConfig, MakeEngine, RequestRefused
from pipelines.batch.layout import JOB, SHARDS, shard_name
from pipelines.batch.output_schema import AnswerFault, OutputSchema
from pipelines.batch.plan import load_plan
from pipelines.batch.prompt import PromptBuilder
from pipelines.batch.records import JobPlan, Stopped, WorkerReport, WorkerRequest
from pipelines.batch.rows import PlannedRow, Row
from pipelines.batch.shard import OpenShard
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.text import DocumentError
from pipelines.batch.tokens import ModelTokenizer
from pipelines.errors import OutputDamaged, TooManyErrors, WeighbridgeError
from pipelines.progress import report
from pipelines.subprocesses import serve


def work(request: WorkerRequest, make_engine: MakeEngine) -> WorkerReport:
    """Do a worker's share of a planned job, and whatever else of it is left.

    The engine is started when the first row needs it, so never for a job that is done. Raises
    OutputDamaged when the plan is not as recorded, TooManyErrors when more rows have failed than
    the job's limit allows at all, ConfigError when the engine cannot hold the schema.
    """
    store = open_store(request.job.output)
    plan = load_plan(store)
    if plan is None:
        raise OutputDamaged(store.location, JOB, "a worker finds no plan")
    worker = _Worker(request, plan, store, make_engine)
    try:
        worker.run()
    finally:
        worker.close()
    return worker.report()


def shard_order(worker: int, workers: int, shards: int) -> list[int]:
    """The order in which worker `worker` of `workers` looks at the shards."""
    first = worker * shards // workers
    return [*range(first, shards), *range(first)]


class _Worker:
    """The state of one worker: open shards, requests in flight, and what to say about it."""

    def __init__(
        self, request: WorkerRequest, plan: JobPlan, store: OutputStore, make_engine: MakeEngine
    ) -> None:
        self._request, self._plan, self._store = request, plan, store
        self._make_engine = make_engine
        self._schema = OutputSchema(request.job.output_schema)
        self._committer = Committer(self._schema)
        self._in_flight: dict[str, tuple[Asked, OpenShard]] = {}
        self._document: tuple[tuple[str, int], Document] | None = None
        self._errors = Counter(plan.planned_errors)
        self._example = ""
        self._rows_done = 0
        self._generated = self._resumed = 0
        self._start_s = self._generate_s = self._stepping_s = 0.0

    def run(self) -> None:
        """Feed the engine until every shard is committed, by this worker or another."""
        feed = self._feed()
        while True:
            self._fill(feed)
            if not self._in_flight:
                break
            before = time.monotonic()
            completions = self._engine.step()
            self._stepping_s += time.monotonic() - before
            for completion in completions:
                self._end(completion)
            self._committer.check()
        self._committer.finish()

    def _fill(self, feed: Iterator[tuple[Asked, OpenShard]]) -> None:
        """Keep the engine's queue full; afterwards nothing is in flight only if nothing is left."""
        while len(self._in_flight) < self._request.job.engine.max_in_flight:
            item = next(feed, None)
            if item is None:
                return
            self._send(*item)

    def _feed(self) -> Iterator[tuple[Asked, OpenShard]]:
        """Rows that the engine has to answer, shard after shard; others are settled on the way."""
        request, committed = self._request, self._committed()
        for index in shard_order(request.worker, request.workers, len(self._plan.shards)):
            name = shard_name(index)
            if name in committed or self._store.exists(name):
                self._count(self._plan.rows_in(index))
                continue
            shard = OpenShard(self._plan, index, self._store, request.journal)
            self._resumed += shard.resumed
            self._count(shard.resumed)
            pending = list(shard.pending())
            if not pending:
                self._committer.commit(shard)
            for planned in pending:
                if (asked := self._prepare(planned, shard)) is not None:
                    yield asked, shard

    def _committed(self) -> set[str]:
        """Shards that were there at the start: one listing spares a look at each."""
        return set(self._store.names(SHARDS))

    def _prepare(self, planned: PlannedRow, shard: OpenShard) -> Asked | None:
        """A row's prompt in tokens; None when the row is settled with an error instead."""
        if planned.error_class is not None:
            self._settle(unasked(planned, planned.error_class, planned.error_message or ""), shard)
            return None
        try:
            document = self._read(planned)
            text = document.text[planned.start : planned.end]
            prompt = self._builder.build(document, text, planned.chunk, planned.chunks)
        except DocumentError as error:
            self._settle(unasked(planned, error.error_class, str(error)), shard)
            return None
        return Asked(planned, self._tokenizer.encode([prompt])[0])

    def _read(self, planned: PlannedRow) -> Document:
        """A row's document; the chunks of one document follow each other, so one is kept."""
        key = (planned.source, planned.offset)
        if self._document is None or self._document[0] != key:
            corpus = self._request.job.corpus
            self._document = (key, reread(corpus, *key, planned.document_sha256))
        return self._document[1]

    def _send(self, asked: Asked, shard: OpenShard) -> None:
        engine = self._engine
        request = asked.next_request()
        try:
            engine.add(request)
        except RequestRefused as error:
            self._settle(asked.failed("request_refused", str(error), engine.name), shard)
        else:
            self._in_flight[request.key] = (asked, shard)

    def _end(self, completion: Completion) -> None:
        """One request ended: keep its answer, ask again, or keep its error."""
        asked, shard = self._in_flight.pop(completion.key)
        asked.take(completion)
        try:
            row = asked.answered(judge(completion, self._schema), self._engine.name)
        except AnswerFault as fault:
            if asked.attempts < self._request.job.sampling.attempts:
                self._send(asked, shard)
                return
            row = asked.failed(fault.error_class, str(fault), self._engine.name)
        self._generated += 1
        self._settle(row, shard)

    def _settle(self, row: Row, shard: OpenShard) -> None:
        shard.add(row)
        self._count(1)
        if row.error_class is not None:
            self._count_error(row)
        if shard.complete:
            self._committer.commit(shard)

    def _count(self, rows: int) -> None:
        self._rows_done += rows
        report(self._rows_done, self._plan.rows, "rows", f"batch {self._plan.job.name}")

    def _count_error(self, row: Row) -> None:
        """Stop as soon as the job can no longer stay within its limit."""
        if row.attempts or row.error_class == "document_changed":  # planned ones are counted
            self._errors[str(row.error_class)] += 1
            self._example = f"{row.document_id}: {row.error_message}"
        limit = self._request.job.limits.max_error_rate
        if self._errors.total() > limit * self._plan.rows:
            raise TooManyErrors(self._plan.job.name, self._errors, self._plan.rows, self._example)

    @cached_property
    def _tokenizer(self) -> ModelTokenizer:
        return ModelTokenizer(self._request.model.weights)

    @cached_property
    def _builder(self) -> PromptBuilder:
        return PromptBuilder(self._request.job.prompt, self._tokenizer)

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
            )
        )
        self._started_at = time.monotonic()
        self._start_s = self._started_at - before
        return engine

    def close(self) -> None:
        """Leave open shards to their journals and give the engine's memory back."""
        self._committer.close()
        for shard in {id(shard): shard for _, shard in self._in_flight.values()}.values():
            shard.close()
        if "_engine" in self.__dict__:
            self._generate_s = time.monotonic() - self._started_at
            self._engine.close()

    def report(self) -> WorkerReport:
        """What was done, for run.json."""
        return WorkerReport(
            rows_generated=self._generated,
            rows_resumed=self._resumed,
            shards_committed=self._committer.won,
            shards_lost=self._committer.lost,
            engine=self._engine.name if "_engine" in self.__dict__ else "",
            engine_start_s=round(self._start_s, 3),
            generate_s=round(self._generate_s, 3),
            stepping_s=round(self._stepping_s, 3),
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
    """The child process: vLLM is imported only when a row needs it."""
    from pipelines.batch.vllm_engine import start_vllm

    serve(lambda data: answer(data, start_vllm))


if __name__ == "__main__":
    main()
