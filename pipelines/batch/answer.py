"""From the engine's last word on a row to the row that is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.batch.engine import Completion, Request
from pipelines.batch.output_schema import AnswerFault, OutputSchema
from pipelines.batch.records import ErrorClass
from pipelines.batch.rows import PlannedRow, Row
from pipelines.batch.text import DocumentError, printable

_MESSAGE_CHARACTERS = 500


@dataclass(slots=True)
class Asked:
    """A row on its way: its prompt, and what its attempts have cost so far."""

    planned: PlannedRow
    prompt_token_ids: list[int] = field(default_factory=list)
    attempts: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def next_request(self) -> Request:
        """The next attempt."""
        self.attempts += 1
        return Request(self.planned.row, self.attempts, self.prompt_token_ids)

    def count(self, completion: Completion) -> None:
        """Add what an attempt cost."""
        self.completion_tokens += completion.completion_tokens
        self.cached_tokens += completion.cached_tokens


def judge(completion: Completion, schema: OutputSchema) -> str | None:
    """The answer as canonical JSON (None without a schema); raises AnswerFault."""
    if completion.finish_reason not in ("stop", "length"):
        raise AnswerFault("engine_error", f"the engine ended it with {completion.finish_reason!r}")
    if completion.finish_reason == "length" and schema.schema is not None:
        fact = f"no complete answer within {completion.completion_tokens} tokens"
        raise AnswerFault("cut_at_max_tokens", fact)
    return schema.parse(completion.text)
