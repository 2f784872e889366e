"""From the engine's last word on a row to the row that is kept."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.batch.engine import Completion, Request
from pipelines.batch.output_schema import AnswerFault, OutputSchema
from pipelines.batch.records import ErrorClass
from pipelines.batch.rows import PlannedRow, Row
from pipelines.batch.text import printable

_MESSAGE_CHARACTERS = 2000


@dataclass(slots=True)
class Asked:
    """A row on its way: its prompt, and what its attempts came to so far."""

    planned: PlannedRow
    prompt_token_ids: list[int]
    attempts: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    last: Completion | None = None

    def next_request(self) -> Request:
        """The next attempt."""
        self.attempts += 1
        return Request(self.planned.row, self.attempts, self.prompt_token_ids)

    def take(self, completion: Completion) -> None:
        """Note how an attempt ended and what it cost."""
        self.last = completion
        self.completion_tokens += completion.completion_tokens
        self.cached_tokens += completion.cached_tokens

    def answered(self, output: str | None, engine: str) -> Row:
        """The row with its answer."""
        return self._row(output, None, None, engine)

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
        error_class=error_class,
        error_message=_shortened(message),
        prompt_tokens=planned.prompt_tokens,
    )


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
