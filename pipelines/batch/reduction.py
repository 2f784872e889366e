"""Reduction: from the committed answers about a document's chunks to one prompt about all of it.

Only what is committed counts, so a prompt is the same whoever makes it and however often a worker
was killed before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipelines.batch.combining import OWN_FIELDS, reduce_builder
from pipelines.batch.committed import CommittedRows
from pipelines.batch.documents.document import Document
from pipelines.batch.job import BatchJob
from pipelines.batch.prompt import names_in
from pipelines.batch.records import JobPlan
from pipelines.batch.rows import PlannedRow
from pipelines.batch.store import OutputStore
from pipelines.batch.text import DocumentError
from pipelines.batch.tokens import ModelTokenizer

_READ = ("chunk", "output", "raw_text", "error_class", "error_message")


class Reducer:
    """Makes the prompts of a job's rows that combine others."""

    def __init__(
        self, job: BatchJob, plan: JobPlan, store: OutputStore, tokenizer: ModelTokenizer
    ) -> None:
        """`job` has a `reduce`; raises ConfigError when its template is none."""
        assert job.reduce is not None
        self._builder = reduce_builder(job, tokenizer)
        self._committed = CommittedRows(plan, store, _READ)
        self._needs_document = bool(names_in(job.reduce.template) - OWN_FIELDS)
        self._has_schema = job.output_schema is not None
        self._room = plan.max_model_len - job.answer_tokens

    def prompt(self, row: PlannedRow, read: Callable[[PlannedRow], Document]) -> str:
        """The prompt that combines a row's parts; `read` gives its document where it is needed.

        Raises DocumentError when a part has an error or the prompt cannot be made, and
        JobNotFinished when a part is not committed.
        """
        document = Document(row.document_id, row.source, row.offset, row.document_sha256)
        if self._needs_document:
            document = read(row)
        fields = {
            **document.fields,
            "id": row.document_id,
            "chunks": row.chunks,
            "answers": self._answers(row),
        }
        return self._builder.whole(document, self._builder.rendered(fields))

    def check_length(self, tokens: int) -> None:
        """Raises DocumentError for a prompt that leaves no room for the longest answer."""
        if tokens > self._room:
            fact = f"{tokens} prompt tokens with the answers, and {self._room} fit"
            remedy = "a job with a lower chunking.reduce.at_once combines fewer at once"
            raise DocumentError("too_long", f"{fact} beside the longest answer; {remedy}")

    def _answers(self, row: PlannedRow) -> list[Any]:
        assert row.first_part is not None
        assert row.parts is not None
        numbers = range(row.first_part, row.first_part + row.parts)
        parts = self._committed.rows(numbers).to_pylist()
        for part in parts:
            if part["error_class"] == "part_failed":  # it names the chunk already
                raise DocumentError("part_failed", part["error_message"])
            if part["error_class"] is not None:
                fact = f"chunk {part['chunk']}: {part['error_class']}: {part['error_message']}"
                raise DocumentError("part_failed", fact)
        if self._has_schema:
            return [json.loads(part["output"]) for part in parts]
        return [part["raw_text"] for part in parts]
