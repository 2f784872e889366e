"""From the engine's last word on a row to the row that is kept."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.batch.engine import Completion, Request
from pipelines.batch.output_schema import AnswerFault, OutputSchema
from pipelines.batch.own_request import Wanted
from pipelines.batch.pooling import FLOAT32, best_label, is_finite
from pipelines.batch.records import ErrorClass, Pooled
from pipelines.batch.rows import PlannedRow, Row
from pipelines.batch.text import printable

_MESSAGE_CHARACTERS = 2000


@dataclass(slots=True)
class Asked:
    """A row on its way: its prompt, and what its attempts came to so far."""

    planned: PlannedRow
    prompt_token_ids: list[int]
    wanted: Wanted
    attempts: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    last: Completion | None = None

    def next_request(self) -> Request:
        """The next attempt."""
        self.attempts += 1
        row, ids, wanted = self.planned.row, self.prompt_token_ids, self.wanted
        if not wanted.own:
            return Request(row, self.attempts, ids)
        return Request(row, self.attempts, ids, wanted.sampling, wanted.schema.schema)

    def take(self, completion: Completion) -> None:
        """Note how an attempt ended and what it cost."""
        self.last = completion
        self.completion_tokens += completion.completion_tokens
        self.cached_tokens += completion.cached_tokens

    def answered(self, output: str | None, engine: str) -> Row:
        """The row with its answer."""
        return self._row(output, None, None, engine)

    def pooled(self, pooled: Pooled, engine: str) -> Row:
        """The row with its vector or scores; raises AnswerFault."""
        assert self.last is not None
        vector = numbers(self.last, pooled)
        label = best_label(vector, pooled.labels) if pooled.labels else None
        row = self._row(None, None, None, engine)
        return row.model_copy(update={"vector": vector, "label": label})

    def failed(self, error_class: ErrorClass, message: str, engine: str) -> Row:
        """The row with its error, and the text that did not fit."""
        return self._row(None, error_class, message, engine)

    def _row(
        self, output: str | None, error_class: ErrorClass | None, message: str | None, engine: str
    ) -> Row:
        planned = self.planned
        return Row(
            row=planned.row,
            document_id=planned.document_id,
            document_sha256=planned.document_sha256,
            chunk=planned.chunk,
            is_part=bool(planned.is_part),
            duplicate_of=planned.duplicate_of,
            output=output,
            raw_text=printable(self.last.text) if self.last else "",
            error_class=error_class,
            error_message=_shortened(message),
            finish_reason=self.last.finish_reason if self.last else None,
            attempts=self.attempts,
            prompt_tokens=len(self.prompt_token_ids),
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            engine=engine,
        )


def unasked(planned: PlannedRow, error_class: ErrorClass, message: str) -> Row:
    """The row of a chunk that no engine saw."""
    return Row(
        row=planned.row,
        document_id=planned.document_id,
        document_sha256=planned.document_sha256,
        chunk=planned.chunk,
        is_part=bool(planned.is_part),
        duplicate_of=planned.duplicate_of,
        error_class=error_class,
        error_message=_shortened(message),
        prompt_tokens=0 if planned.parts else planned.prompt_tokens,  # there is no prompt yet
    )


def numbers(completion: Completion, pooled: Pooled) -> bytes:
    """The numbers that ended a request; raises AnswerFault unless they are as many as planned."""
    vector = completion.vector
    if vector is None or completion.finish_reason != "stop":
        raise AnswerFault("engine_error", f"the engine ended it with {completion.finish_reason!r}")
    if (found := len(vector) // FLOAT32.itemsize) != pooled.dimensions:
        fact = f"{found} numbers, and the model's config.json says {pooled.dimensions}"
        raise AnswerFault("engine_error", fact)
    if not is_finite(vector):
        raise AnswerFault("engine_error", "not all of its numbers are finite")
    return vector


def judge(completion: Completion, schema: OutputSchema) -> str | None:
    """The answer as canonical JSON (None without a schema); raises AnswerFault."""
    if completion.finish_reason not in ("stop", "length"):
        raise AnswerFault("engine_error", f"the engine ended it with {completion.finish_reason!r}")
    if completion.finish_reason == "length" and schema.schema is not None:
        fact = f"no complete answer within {completion.completion_tokens} tokens"
        raise AnswerFault("cut_at_max_tokens", fact)
    return schema.parse(completion.text)


def _shortened(message: str | None) -> str | None:
    return None if message is None else printable(message)[:_MESSAGE_CHARACTERS]
