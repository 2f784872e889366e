"""Feed: planned rows as prepared requests, a window ahead of the engine.

A thread reads documents, renders prompts and encodes them while the engine steps. Within a window
the requests are sorted by their tokens, so that prompts with a common beginning are neighbours and
find it in the engine's prefix cache. Rows are committed in the order of the plan all the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipelines.batch.answer import Asked
from pipelines.batch.corpus import CorpusReader, Document
from pipelines.batch.layout import SHARDS, shard_name
from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.own_request import Wanted, wanted
from pipelines.batch.prompt import PromptBuilder
from pipelines.batch.records import JobPlan, WorkerRequest
from pipelines.batch.reduction import Reducer
from pipelines.batch.rows import PlannedRow
from pipelines.batch.shard import OpenShard
from pipelines.batch.store import OutputStore
from pipelines.batch.text import DocumentError
from pipelines.batch.tokens import ModelTokenizer

WINDOW_ROWS = 512
WINDOW_TOKENS = 500_000  # bounds the memory of a window: about 36 bytes a token


@dataclass(slots=True)
class Prepared:
    """A planned row with its prompt in tokens, or why there is none."""

    planned: PlannedRow
    shard: OpenShard
    wanted: Wanted
    prompt_token_ids: list[int] = field(default_factory=list)
    fault: DocumentError | None = None

    def asked(self) -> Asked:
        """The row on its way to the engine."""
        return Asked(self.planned, self.prompt_token_ids, self.wanted)


@dataclass(slots=True)
class Window:
    """Rows in the order in which the engine should have them, and what was met on the way."""

    rows: list[Prepared] = field(default_factory=list)
    opened: list[OpenShard] = field(default_factory=list)
    passed_rows: int = 0  # of shards that are committed


def own_part(worker: int, workers: int, shards: int) -> range:
    """The shards that are a worker's to begin with."""
    return range(worker * shards // workers, (worker + 1) * shards // workers)


def shard_order(worker: int, workers: int, shards: int) -> list[int]:
    """The order in which worker `worker` of `workers` looks at the shards.

    Its own part comes first. The others' parts follow in an order of its own: in the order of the
    shards it would catch up with a slower worker and then do the same shards beside it to the end.
    """
    own = own_part(worker, workers, shards)
    rest = [index for index in range(shards) if index not in own]
    random.Random(worker).shuffle(rest)
    return [*own, *rest]


class Feed:
    """All rows of a worker's request, pass after pass; in each `suspected` first, where it is used.

    A pass may begin when all shards of those before are committed: its prompts may rest on them.
    """

    def __init__(self, request: WorkerRequest, plan: JobPlan, store: OutputStore) -> None:
        self._request, self._plan, self._store = request, plan, store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._opened: dict[int, OpenShard] = {}
        job = request.job
        self._wanted = Wanted(job.sampling, OutputSchema(job.output_schema))
        self._reader = CorpusReader(job.corpus)
        self._document: tuple[tuple[str, int, str], Document] | None = None
        self._tools: tuple[ModelTokenizer, PromptBuilder, Reducer | None] | None = None

    def suspected(self, shards: range) -> Iterator[Window]:
        """The suspects of the request in these shards that are not settled yet."""
        suspects = frozenset(self._request.suspects)
        return self._ahead(self._windows(shards, suspects))

    def rest(self, shards: range) -> Iterator[Window]:
        """Every row of these shards that is not settled yet, shard after shard."""
        return self._ahead(self._windows(shards, None))

    def close(self) -> None:
        """End the thread, after the window that it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def _ahead(self, windows: Iterator[Window]) -> Iterator[Window]:
        """The same windows, the next one always under way; what making one raises comes up here."""
        coming = self._thread.submit(next, windows, None)
        while (window := coming.result()) is not None:
            coming = self._thread.submit(next, windows, None)
            yield window

    def _windows(self, shards: range, only: frozenset[int] | None) -> Iterator[Window]:
        window, tokens = Window(), 0
        committed = self._committed()
        worker, workers = self._request.worker, self._request.workers
        own = {shards[at] for at in own_part(worker, workers, len(shards))}
        for index in (shards[at] for at in shard_order(worker, workers, len(shards))):
            if window.rows and index not in own:  # others may be at it: never read far ahead
                yield self._prepared(window)
                window, tokens = Window(), 0
            part = self._plan.shards[index]
            if only is not None and not any(part.start <= row < part.stop for row in only):
                continue
            if (shard := self._open(index, committed, window)) is None:
                if only is not None:
                    window.passed_rows = 0  # `rest` will count them
                continue
            if only is not None:
                self._opened[index] = shard  # `rest` takes it up again
            for row in [row for row in shard.pending() if only is None or row.row in only]:
                window.rows.append(Prepared(row, shard, self._wanted))
                tokens += row.prompt_tokens
                if len(window.rows) >= WINDOW_ROWS or tokens >= WINDOW_TOKENS:
                    yield self._prepared(window)
                    window, tokens = Window(), 0
            if shard.complete:  # from its journal, or as a suspect's: let go of its rows
                yield self._prepared(window)
                window, tokens = Window(), 0
        yield self._prepared(window)

    def _committed(self) -> set[str]:
        """Shards that were there at the start: one listing spares a look at each."""
        return set(self._store.names(SHARDS))

    def _open(self, index: int, committed: set[str], window: Window) -> OpenShard | None:
        """A shard as it was opened before, or opened now; None when it is committed."""
        if index in self._opened:
            return self._opened.pop(index)
        name = shard_name(index)
        if name in committed or self._store.exists(name):
            window.passed_rows += self._plan.rows_in(index)
            return None
        shard = OpenShard(self._plan, index, self._store, self._request.journal)
        window.opened.append(shard)
        return shard

    def _prepared(self, window: Window) -> Window:
        """Read, render and encode all rows of a window, and sort them."""
        texts: list[tuple[Prepared, str]] = []
        for prepared in window.rows:
            try:
                texts.append((prepared, self._prompt(prepared)))
            except DocumentError as error:
                prepared.fault = error
        if texts:
            encoded = self._made_tools()[0].encode([text for _, text in texts])
            for (prepared, _), ids in zip(texts, encoded, strict=True):
                self._take(prepared, ids)
        window.rows.sort(key=lambda prepared: prepared.prompt_token_ids)
        return window

    def _take(self, prepared: Prepared, ids: list[int]) -> None:
        """Keep the prompt; one of answers may turn out too long, which no plan could tell."""
        reducer = self._made_tools()[2]
        if prepared.planned.parts and reducer is not None:
            try:
                reducer.check_length(len(ids))
            except DocumentError as error:
                prepared.fault = error
                return
        prepared.prompt_token_ids = ids

    def _prompt(self, prepared: Prepared) -> str:
        """A row's prompt as text; raises DocumentError, also for what the plan found."""
        planned = prepared.planned
        if planned.error_class is not None:
            raise DocumentError(planned.error_class, planned.error_message or "")
        if planned.row in self._request.killers:
            raise DocumentError("engine_died", self._request.killers[planned.row])
        reducer = self._made_tools()[2]
        if planned.parts and reducer is not None:
            return reducer.prompt(planned, self._read)
        document = self._read(planned)
        prepared.wanted = wanted(self._wanted, document.request)
        text = document.text[planned.start : planned.end]
        return self._made_tools()[1].build(document, text, planned.chunk, planned.chunks)

    def _read(self, planned: PlannedRow) -> Document:
        """A row's document; the chunks of one document follow each other, so one is kept."""
        key = (planned.source, planned.offset, planned.document_sha256)
        if self._document is None or self._document[0] != key:
            self._document = (key, self._reader.reread(*key, planned.document_id))
        return self._document[1]

    def _made_tools(self) -> tuple[ModelTokenizer, PromptBuilder, Reducer | None]:
        """Tokenizer and prompts, made when the first row needs them."""
        if self._tools is None:
            job = self._request.job
            tokenizer = ModelTokenizer(self._request.model.weights, chat=job.task == "generate")
            reducer = Reducer(job, self._plan, self._store, tokenizer) if job.reduce else None
            self._tools = tokenizer, PromptBuilder(job.prompt, tokenizer), reducer
        return self._tools
