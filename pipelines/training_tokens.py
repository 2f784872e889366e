"""Conversations as token ids and labels, and the proof that the labels are the answers.

A label is the token itself where loss is taken and IGNORED elsewhere. Loss is taken on each
answer and on the token that ends it: a mask that drops the end token teaches a model not to stop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pipelines.errors import TemplateNotTrainable
from pipelines.progress import report
from pipelines.training_rows import Row
from pipelines.training_template import assert_same_rendering

IGNORED = -100  # the label that torch's cross-entropy leaves out


@dataclass(frozen=True)
class TokenisedRow:
    """One conversation, cut to the recipe's max_length."""

    id: str
    input_ids: list[int]
    labels: list[int]
    tokens: int  # before cutting

    @property
    def answer_tokens(self) -> int:
        """Tokens with loss that are left after cutting."""
        return sum(label != IGNORED for label in self.labels)


def tokenise(
    tokenizer: Any, rows: Sequence[Row], template: str, *, max_length: int, base: Path
) -> list[TokenisedRow]:
    """Render and tokenise every row with the training template, and check its mask.

    Raises TemplateNotTrainable when the copy renders a row differently from the model's own
    template, or when the masked tokens of a row are not its answers with their end tokens.
    """
    stops = stop_tokens(tokenizer, base)
    tokenised = []
    for number, row in enumerate(rows, start=1):
        conversation = [message.model_dump() for message in row.messages]
        assert_same_rendering(tokenizer, template, [conversation], str(base))
        encoded = tokenizer.apply_chat_template(
            conversation,
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = list(encoded["input_ids"]), list(encoded["assistant_masks"])
        if problem := _mask_problem(tokenizer, row, ids, mask, stops):
            raise TemplateNotTrainable(base, f"in row {row.id} {problem}")
        labels = [token if kept else IGNORED for token, kept in zip(ids, mask, strict=True)]
        tokenised.append(TokenisedRow(row.id, ids[:max_length], labels[:max_length], len(ids)))
        report(number, len(rows), "rows", "tokenise")
    return tokenised


def stop_tokens(tokenizer: Any, base: Path) -> frozenset[int]:
    """Ids that end an answer: the tokenizer's EOS and those of generation_config.json."""
    stops = {tokenizer.eos_token_id}
    path = base / "generation_config.json"
    if path.is_file():
        stated = json.loads(path.read_bytes()).get("eos_token_id")
        stops.update(stated if isinstance(stated, list) else [stated])
    return frozenset(stop for stop in stops if isinstance(stop, int))


def _mask_problem(
    tokenizer: Any, row: Row, ids: list[int], mask: list[int], stops: frozenset[int]
) -> str:
    """What is wrong with a mask, or ''. Every masked stretch must be one answer and its end."""
    answers = [m.content for m in row.messages if m.role == "assistant"]
    stretches = list(_masked(ids, mask))
    if len(stretches) != len(answers):
        return f"the markers show {len(stretches)} answers of {len(answers)}"
    for answer, stretch in zip(answers, stretches, strict=True):
        text = _decode(tokenizer, stretch).strip()
        if not text.startswith(answer):
            return "what the markers show is not the answer"
        ends = [at for at, token in enumerate(stretch) if token in stops]
        if not ends:
            return "the markers leave out the token that ends the answer"
        if _decode(tokenizer, stretch[: ends[0]]).strip() != answer:
            return "the markers show more than the answer and its end"
        if _decode(tokenizer, stretch[ends[0] + 1 :]).strip():
            return "the markers show text after the end of the answer"
    return ""


def _masked(ids: list[int], mask: list[int]) -> Iterator[list[int]]:
    for kept, pairs in groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1])):
        if kept:
            yield [token for token, _ in pairs]


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
