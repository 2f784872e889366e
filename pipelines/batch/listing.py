"""The listing: the corpus as a stream of numbered rows, with what is learned on the way."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from pipelines.batch.corpus import Document, read_documents
from pipelines.batch.identity import CorpusDigest
from pipelines.batch.job import BatchJob
from pipelines.batch.prompt import PromptBuilder
from pipelines.batch.rows import PlannedRow
from pipelines.batch.text import DocumentError, printable
from pipelines.batch.tokens import ModelTokenizer
from pipelines.canonical import sha256_bytes
from pipelines.errors import ConfigError
from pipelines.progress import report

T = TypeVar("T")

_ENCODED_AT_ONCE = 64  # prompts; the tokenizer uses all cores within one call
_LOOKED_AT_FIRST = 100  # documents after which a field that all lack is a mistake in the prompt
_NAMED_IDS = 5
_SAID_EVERY = 1000  # documents


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row before its prompt is counted; `prompt` is None where there is an error."""

    document: Document
    chunk: int
    chunks: int
    span: tuple[int, int]
    duplicate_of: str | None
    prompt: str | None
    error: DocumentError | None


class Listing:
    """Streams a corpus once; the counts are complete when the last shard was taken."""

    def __init__(
        self, job: BatchJob, tokenizer: ModelTokenizer, builder: PromptBuilder, max_model_len: int
    ) -> None:
        self._job, self._tokenizer, self._builder = job, tokenizer, builder
        self._room = max_model_len - job.sampling.max_tokens
        self._seen = _Seen()
        self._rendered, self._lacking = 0, 0
        self._lack = ""
        self._steering = 0
        self.digest = CorpusDigest(job.corpus)
        self.ignored: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.twice: list[str] = []
        self.duplicates = self.cut = self.rows = self.prompt_tokens = self.longest = 0
        self.example = ""

    @property
    def documents(self) -> int:
        """How many documents were read."""
        return self.digest.documents

    def shards(self, rows: int) -> Iterator[list[PlannedRow]]:
        """The planned rows in order, in lists of `rows` (the last may be shorter)."""
        return _batched(self._planned(), rows)

    def check_fields(self) -> None:
        """Raises ConfigError when every document so far lacks a field that the prompt names."""
        if self._rendered and self._lacking == self._rendered:
            raise ConfigError(
                "prompt.template",
                f"no document has what it names ({self._lack})",
                "It may use text, id, chunk, chunks and, with jsonl, the other columns.",
            )

    def notes(self) -> Iterator[str]:
        """What a person should know before the job runs."""
        if self._steering:
            yield (
                f"{self._steering} documents spell the model's own control tokens and can steer "
                "it; treat their answers with care"
            )
        if self.cut:
            yield f"{self.cut} documents are longer than the chunks that chunking.first keeps"

    def _planned(self) -> Iterator[PlannedRow]:
        for drafts in _batched(self._drafts(), _ENCODED_AT_ONCE):
            prompts = [draft.prompt for draft in drafts if draft.prompt is not None]
            counts = iter([len(ids) for ids in self._tokenizer.encode(prompts)])
            for draft in drafts:
                yield self._number(draft, next(counts) if draft.prompt is not None else 0)

    def _number(self, draft: _Draft, tokens: int) -> PlannedRow:
        """Give a draft its place; one whose prompt leaves no room for the answer is an error."""
        error = draft.error
        if tokens > self._room:
            fact = f"{tokens} prompt tokens, and {self._room} fit beside the longest answer"
            error = DocumentError("too_long", fact)
        if error is not None:
            self.errors[error.error_class] += 1
            self.example = self.example or f"{draft.document.id}: {error}"
        row = PlannedRow(
            row=self.rows,
            document_id=draft.document.id,
            document_sha256=draft.document.sha256,
            path=os.fsencode(draft.document.path),
            offset=draft.document.offset,
            chunk=draft.chunk,
            chunks=draft.chunks,
            start=draft.span[0],
            end=draft.span[1],
            prompt_tokens=tokens,
            duplicate_of=draft.duplicate_of,
            error_class=error.error_class if error else None,
            error_message=printable(str(error)) if error else None,
        )
        self.rows += 1
        self.prompt_tokens += 0 if error else tokens
        self.longest = max(self.longest, tokens)
        return row

    def _drafts(self) -> Iterator[_Draft]:
        for document in read_documents(self._job.corpus, self.ignored):
            self.digest.add(document)
            if self.documents % _SAID_EVERY == 0:
                report(self.documents, 0, "documents", f"planning {self._job.name}")
            if not self._seen.is_new_id(document.id) and len(self.twice) < _NAMED_IDS:
                self.twice.append(document.id)
            if document.error is not None:
                yield _Draft(document, 0, 1, (0, 0), None, None, document.error)
            else:
                yield from self._chunks(document)

    def _chunks(self, document: Document) -> Iterator[_Draft]:
        first = self._seen.first_with(document.content_sha256(), document.id)
        self.duplicates += first is not None
        self._steering += self._tokenizer.holds_control_tokens(document.text)
        chunking = self._job.chunking
        spans = self._tokenizer.spans(document.text, chunking)
        kept = spans[: chunking.first] if chunking else spans
        self.cut += len(kept) < len(spans)
        for chunk, (start, end) in enumerate(kept):
            prompt, error = None, None
            try:
                part = document.text[start:end]
                prompt = self._builder.build(document, part, chunk, len(kept))
            except DocumentError as caught:
                error = caught
            if chunk == 0:
                self._look_for_lack(error)
            yield _Draft(document, chunk, len(kept), (start, end), first, prompt, error)

    def _look_for_lack(self, error: DocumentError | None) -> None:
        self._rendered += 1
        if error is not None and error.error_class == "missing_field":
            self._lacking += 1
            self._lack = str(error)
        if self._rendered == _LOOKED_AT_FIRST:
            self.check_fields()


class _Seen:
    """Ids and contents that came before, in a temporary database: memory stays flat."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # '': a file that is not named
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("BEGIN")
        for table in ("ids", "contents"):
            self._database.execute(
                f"CREATE TABLE {table} (key BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID"
            )

    def is_new_id(self, identity: str) -> bool:
        """Whether no document before had this id."""
        key = bytes.fromhex(sha256_bytes(identity.encode()))[:16]
        return self._insert("ids", key, None)

    def first_with(self, content_sha256: str, identity: str) -> str | None:
        """The id of the first document with this content, None when it is this one."""
        key = bytes.fromhex(content_sha256)
        if self._insert("contents", key, identity):
            return None
        found = self._database.execute("SELECT id FROM contents WHERE key = ?", (key,)).fetchone()
        return str(found[0])

    def _insert(self, table: str, key: bytes, identity: str | None) -> bool:
        inserted = self._database.execute(
            f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT DO NOTHING", (key, identity)
        )
        return inserted.rowcount == 1


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
