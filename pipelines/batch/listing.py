"""The listing: the corpus as a stream of numbered rows, with what is learned on the way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from pipelines.batch.combining import KEY, Combining, check_reduce
from pipelines.batch.corpus import read_documents
from pipelines.batch.documents.document import Document
from pipelines.batch.documents.language import language_of
from pipelines.batch.duplicates import Copies, Seen, id_key
from pipelines.batch.identity import CorpusDigest
from pipelines.batch.job import BatchJob
from pipelines.batch.line_requests import LineRequests
from pipelines.batch.prompt import PromptBuilder
from pipelines.batch.rows import PlannedRow
from pipelines.batch.sizing import Draft, Sizer
from pipelines.batch.text import DocumentError, printable
from pipelines.batch.tokens import ModelTokenizer
from pipelines.errors import ConfigError
from pipelines.progress import report

T = TypeVar("T")

_AT_ONCE = 256  # documents; the tokenizer uses all cores within one call
_BYTES_AT_ONCE = 8_000_000  # of text, roughly: a batch of large documents ends earlier
_LOOKED_AT_FIRST = 100  # documents after which a field that all lack is a mistake in the prompt
_NAMED_IDS = 5


class Listing:
    """Streams a corpus once; the counts are complete when the last shard was taken."""

    def __init__(
        self, job: BatchJob, tokenizer: ModelTokenizer, builder: PromptBuilder, max_model_len: int
    ) -> None:
        self._job, self._tokenizer, self._builder = job, tokenizer, builder
        self._sizer = Sizer(job, tokenizer, builder, max_model_len)
        self._requests = LineRequests(job)
        self._ids, self._contents, self._copies = Seen(), Seen(), Copies()
        self._combining = Combining(job, tokenizer, max_model_len)
        self._combined_columns = check_reduce(job, tokenizer)
        self._lacking_columns = 0
        self._rendered, self._lacking = 0, 0
        self._lack = ""
        self._steering = 0
        self.digest = CorpusDigest(job.corpus)
        self.ignored: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.media_types: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.twice: list[str] = []
        self.duplicates = self.cut = self.rows = self.prompt_tokens = self.longest = 0
        self.reduced_prompt_tokens = 0
        self.rounds: list[int] = []  # the first row of each round of rows that combine others
        self.originals = 0  # rows that are no copies
        self.most_completion_tokens = 0
        self.example = ""

    @property
    def documents(self) -> int:
        """How many documents were read."""
        return self.digest.documents

    @property
    def estimated(self) -> int:
        """How many prompts were estimated and not counted."""
        return self._sizer.estimated

    @property
    def request_url(self) -> str:
        """The endpoint that request lines name, '' without any."""
        return self._requests.url

    def shards(self, rows: int) -> Iterator[list[PlannedRow]]:
        """The planned rows in order, in lists of `rows`.

        Rows that combine others, round by round, and copies of others are in lists of their own.
        """
        yield from _batched(self._planned(), rows)
        while True:
            first = self.rows
            yield from _batched(self._combined(), rows)
            if self.rows == first:
                break
            self.rounds.append(first)
        self.originals = self.rows
        yield from _batched(self._copied(), rows)
        for database in (self._ids, self._contents, self._copies, self._combining):
            database.close()

    def check_fields(self) -> None:
        """Raises ConfigError when every document so far lacks a field that the prompt names."""
        if self._rendered and self._lacking == self._rendered:
            raise ConfigError(
                "prompt.template",
                f"no document has what it names ({self._lack})",
                "It may use text, id, chunk, chunks and, with tables, the other columns.",
            )
        if self._combining.documents and self._lacking_columns == self._combining.documents:
            fact = f"no document has all it names ({', '.join(sorted(self._combined_columns))})"
            raise ConfigError(KEY, fact, "It may use answers, id, chunks and the other columns.")

    def notes(self) -> Iterator[str]:
        """What a person should know before the job runs."""
        if self._steering:
            yield (
                f"{self._steering} documents spell the model's own control tokens and can steer "
                "it; treat their answers with care"
            )
        if self.cut:
            yield f"{self.cut} documents are not asked about to their end"
        if self.estimated:
            yield f"the tokens of {self.estimated} prompts are estimated from the first ones"
        if self._combining.documents:
            yield (
                f"{self._combining.documents} documents have several chunks, and rows more that "
                "combine their answers"
            )
        if self._combining.tight:
            yield (
                f"{self._combining.tight} prompts that combine answers do not fit if every answer "
                "is the longest; chunking.reduce.at_once combines fewer at once"
            )
        yield from self._requests.notes()

    def _planned(self) -> Iterator[PlannedRow]:
        for documents in _batches(read_documents(self._job.corpus, self.ignored)):
            keys = self._look(documents)
            drafts = [list(self._drafts(document)) for document in documents]
            self._sizer.count([draft for rows in drafts for draft in rows])
            for rows, (key, first) in zip(drafts, keys, strict=True):
                yield from self._numbered(self._fitting(rows), key, first)

    def _look(self, documents: Sequence[Document]) -> list[tuple[bytes | None, str | None]]:
        """Count documents; for each its content's key and the id of the first that had it."""
        for document in documents:
            self.digest.add(document)
            self.media_types[document.media_type] += 1
        report(self.documents, 0, "documents", f"planning {self._job.name}")
        ids = [document.id for document in documents]
        for at, earlier in enumerate(self._ids.firsts([id_key(i) for i in ids], [None] * len(ids))):
            if earlier is not None and len(self.twice) < _NAMED_IDS:
                self.twice.append(ids[at])
        keys = [None if d.error else bytes.fromhex(d.content_sha256()) for d in documents]
        firsts = self._contents.firsts(keys, ids)
        found: list[tuple[bytes | None, str | None]] = []
        for key, first in zip(keys, firsts, strict=True):
            copied = key is not None and first is not None
            found.append((key, self._contents.id_of(key) if copied and key else None))
            self.duplicates += copied
        return found

    def _drafts(self, document: Document) -> Iterator[Draft]:
        """What is asked about one document, not yet counted."""
        if document.error is not None:
            yield Draft(document, 0, 1, (0, 0), error=document.error)
            return
        self._steering += self._tokenizer.holds_control_tokens(document.text)
        chunking = self._job.chunking
        spans = self._tokenizer.spans(document.text, chunking)
        kept = spans[: chunking.first] if chunking else spans
        self.cut += len(kept) < len(spans)
        for chunk, (start, end) in enumerate(kept):
            draft = Draft(document, chunk, len(kept), (start, end))
            try:
                draft.most_tokens = self._requests.check(document)
                part = document.text[start:end]
                draft.asked = self._builder.asked(document, part, chunk, len(kept))
            except DocumentError as caught:
                draft.error = caught
            if chunk == 0:
                self._look_for_lack(draft.error)
            yield draft

    def _fitting(self, rows: list[Draft]) -> list[Draft]:
        """One document's rows after the job's word about those that are too long."""
        if all(draft.error is not None or self._sizer.fits(draft) for draft in rows):
            return rows
        fitting: list[Draft] = []
        for draft in rows:
            if draft.error is None and not self._sizer.fits(draft):
                fitting += self._sizer.shortened(draft)
            else:
                fitting.append(draft)
        chunking = self._job.chunking
        if chunking and chunking.first is not None and len(fitting) > chunking.first:
            fitting = fitting[: chunking.first]
            self.cut += 1
        elif self._job.over_long == "truncate":
            self.cut += any(draft.error is None for draft in fitting)
        return fitting

    def _numbered(
        self, rows: Sequence[Draft], key: bytes | None, first: str | None
    ) -> Iterator[PlannedRow]:
        """Give rows their places; copies wait for the end."""
        language = None
        if self._job.corpus.language and rows[0].document.error is None:
            language = language_of(rows[0].document.text)
            self.languages[language] += 1
        once = self._job.duplicates == "answer_once" and key is not None
        whole = once and all(draft.error is None for draft in rows)
        if whole and first is None and key is not None:
            self._copies.note(key, self.rows)
        reduced = self._job.reduce is not None and len(rows) > 1
        numbered: list[PlannedRow] = []
        for draft in rows:
            row = self._row(draft, language, first, reduced)
            if whole and first is not None and key is not None:
                self._copies.keep(key, row)
                continue
            if draft.error is not None:
                self.errors[draft.error.error_class] += 1
                self.example = self.example or f"{draft.document.id}: {draft.error}"
            else:
                self.prompt_tokens += draft.tokens
                self.most_completion_tokens += draft.most_tokens
            self.rows += 1
            self.longest = max(self.longest, draft.tokens)
            if reduced:
                numbered.append(row)
            yield row
        if numbered:
            self._combining.keep(numbered, key if whole else None)
            fields = rows[0].document.fields
            self._lacking_columns += not self._combined_columns <= fields.keys()

    def _combined(self) -> Iterator[PlannedRow]:
        for row, key, failed in self._combining.round(self.rows):
            self.rows += 1
            if key is not None:
                self._copies.combined(key, row)
            if not failed:
                self.reduced_prompt_tokens += row.prompt_tokens
                self.most_completion_tokens += self._job.answer_tokens
            yield row

    def _copied(self) -> Iterator[PlannedRow]:
        for row in self._copies.rows(self.rows):
            self.rows += 1
            yield row

    def _row(
        self, draft: Draft, language: str | None, first: str | None, is_part: bool
    ) -> PlannedRow:
        document, error = draft.document, draft.error
        return PlannedRow(
            row=self.rows,
            document_id=document.id,
            document_sha256=document.sha256,
            path=os.fsencode(document.path),
            offset=document.offset,
            chunk=draft.chunk,
            chunks=draft.chunks,
            start=draft.span[0],
            end=draft.span[1],
            prompt_tokens=draft.tokens,
            duplicate_of=first,
            error_class=error.error_class if error else None,
            error_message=printable(str(error)) if error else None,
            media_type=document.media_type,
            language=language,
            is_part=is_part,
        )

    def _look_for_lack(self, error: DocumentError | None) -> None:
        self._rendered += 1
        if error is not None and error.error_class == "missing_field":
            self._lacking += 1
            self._lack = str(error)
        if self._rendered == _LOOKED_AT_FIRST:
            self.check_fields()


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of documents that are worth handling at once and not too large together."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += 0 if document.error else len(document.text)
        if len(batch) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
