"""Sizing: how many tokens prompts have, and what becomes of those that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.batch.documents.document import Document
from pipelines.batch.job import BatchJob
from pipelines.batch.prompt import PromptBuilder
from pipelines.batch.text import DocumentError
from pipelines.batch.tokens import ModelTokenizer

SAMPLED = 1000  # prompts that are counted before any is estimated
_ROUNDS = 8  # of making a part smaller: token counts of parts do not quite add up


@dataclass(slots=True)
class Draft:
    """A row before its prompt is counted; `asked` is None where there is an error."""

    document: Document
    chunk: int
    chunks: int
    span: tuple[int, int]
    asked: str | None = None
    error: DocumentError | None = None
    tokens: int = 0
    most_tokens: int = 0  # of the answer


class Sizer:
    """Counts prompts, or estimates those that cannot but fit once enough of them were counted."""

    def __init__(
        self, job: BatchJob, tokenizer: ModelTokenizer, builder: PromptBuilder, max_model_len: int
    ) -> None:
        self._job, self._tokenizer, self._builder = job, tokenizer, builder
        self._length = max_model_len
        self._tokens = self._bytes = self._prompts = 0
        self._frame: int | None = None  # bytes that the chat template adds
        self.estimated = 0

    def count(self, drafts: Sequence[Draft]) -> None:
        """Set the tokens of each draft, or its error if the chat template fails."""
        counted: list[tuple[Draft, str]] = []
        for draft in drafts:
            if draft.asked is None or self._estimate(draft, draft.asked):
                continue
            try:
                counted.append((draft, self._builder.whole(draft.document, draft.asked)))
            except DocumentError as error:
                draft.error = error
        ids = self._tokenizer.encode([prompt for _, prompt in counted])
        for (draft, prompt), found in zip(counted, ids, strict=True):
            draft.tokens = len(found)
            self._learn(draft, prompt)

    def fits(self, draft: Draft) -> bool:
        """Whether a draft's prompt leaves room for its longest answer."""
        return draft.tokens <= self._length - draft.most_tokens

    def refuse(self, draft: Draft) -> None:
        """Give a draft that does not fit its error."""
        room = self._length - draft.most_tokens
        fact = f"{draft.tokens} prompt tokens, and {room} fit beside the longest answer"
        draft.error = DocumentError("too_long", fact)

    def shortened(self, draft: Draft) -> list[Draft]:
        """What is asked instead of a draft that does not fit, by the job's word."""
        if self._job.over_long == "truncate":
            return self._divided(draft, 0, only_first=True)
        if self._job.over_long == "chunk" and draft.chunks == 1:
            chunking = self._job.chunking
            return self._divided(draft, chunking.overlap_tokens if chunking else 0)
        self.refuse(draft)
        return [draft]

    def _divided(self, draft: Draft, overlap: int, only_first: bool = False) -> list[Draft]:
        """Parts with as many tokens of the text as fit; the draft with its error if none do."""
        begin, end = draft.span
        text = draft.document.text[begin:end]
        own = len(self._tokenizer.encode_text(text))
        room = self._length - draft.most_tokens - max(draft.tokens - own, 0)
        for _ in range(_ROUNDS):
            if room < 1 or overlap >= room:
                break
            spans = self._tokenizer.divided(text, room, overlap)
            spans = spans[:1] if only_first else spans
            parts = [self._part(draft, span, i, len(spans)) for i, span in enumerate(spans)]
            self.count(parts)
            over = max(part.tokens + part.most_tokens for part in parts) - self._length
            if over <= 0:
                return parts
            room -= over
        self.refuse(draft)
        return [draft]

    def _part(self, draft: Draft, span: tuple[int, int], chunk: int, chunks: int) -> Draft:
        """One part; of a chunk that is cut short, the same chunk."""
        if self._job.over_long == "truncate":
            chunk, chunks = draft.chunk, draft.chunks
        start = draft.span[0]
        part = Draft(draft.document, chunk, chunks, (start + span[0], start + span[1]))
        part.most_tokens = draft.most_tokens
        text = draft.document.text[part.span[0] : part.span[1]]
        try:
            part.asked = self._builder.asked(draft.document, text, chunk, chunks)
        except DocumentError as error:
            part.error = error
        return part

    def _estimate(self, draft: Draft, asked: str) -> bool:
        """Estimate a draft's tokens; False when it has to be counted."""
        if self._job.tokens == "count" or self._prompts < SAMPLED or self._frame is None:
            return False
        size = len(asked.encode()) + self._frame
        most = self._tokenizer.most_tokens(size)
        if most is None or most > self._length - draft.most_tokens:
            return False
        draft.tokens = max(1, round(size * self._tokens / self._bytes))
        self.estimated += 1
        return True

    def _learn(self, draft: Draft, prompt: str) -> None:
        if self._job.tokens == "estimate" and self._prompts < SAMPLED:
            size = len(prompt.encode())
            self._frame = max(self._frame or 0, size - len((draft.asked or "").encode()))
            self._tokens, self._bytes = self._tokens + draft.tokens, self._bytes + size
            self._prompts += 1
