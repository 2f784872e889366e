"""Tokenizers: rules that rewrite text, aliases of control tokens, identifiers that do not agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, quoted, refusal, warning
from pipelines.verification.model_folders import embedding_rows
from pipelines.verification.tokenizer_files import judge_files
from pipelines.verification.tokenizer_parts import judge_parts, judge_post_processor
from pipelines.verification.tokenizer_tokens import (
    judge_added,
    judge_form,
    judge_model,
    may_lie_beyond,
)

TOKENIZER = "tokenizer.json"
_REMEDY = "Compare the file with the base model's, and fetch it again from its publisher."
Found = Iterator[tuple[str, str]]  # rule, fact


def check(contents: Contents) -> Iterator[Finding]:
    """Every tokenizer.json by itself; that of the root against its other files and embeddings."""
    for name, document in contents.objects():
        if name.rpartition("/")[2] == TOKENIZER:
            for rule, fact in _check_one(contents, name, document):
                yield refusal(rule, name, fact, _REMEDY)
    document = contents.object(TOKENIZER)
    vocabulary, added = _vocabulary(document), _added(document)
    if vocabulary is None or added is None:
        return
    rows = embedding_rows(contents)
    tokens = _added_tokens(document)
    special = {str(token["content"]): token.get("special") is True for token in tokens}
    for rule, file, fact in judge_files(contents, {**vocabulary, **dict(added)}, special, rows):
        yield refusal(rule, file, fact, _REMEDY)
    if rows is not None and (beyond := [t for t, n in added if n == rows]):
        fact = f"the added tokens {listed(beyond)} have ids beyond the {rows} embeddings"
        remedy = "Never put them into a prompt; the model has no vector for them."
        yield warning("tokenizer.beyond-embeddings", TOKENIZER, fact, remedy)


def _check_one(contents: Contents, name: str, document: dict[str, Any]) -> Found:
    yield from judge_parts(document)
    vocabulary = _vocabulary(document)
    added = _added(document)
    if vocabulary is None or added is None:
        yield "tokenizer.form", "its vocabulary or its added tokens do not have a known form"
        return
    ids = {**vocabulary, **dict(added)}
    tokens = _added_tokens(document)
    special = frozenset(str(t["content"]) for t in tokens if t.get("special") is True)
    yield from _check_identifiers(vocabulary, added)
    yield from _check_bounds(
        vocabulary, added, embedding_rows(contents) if name == TOKENIZER else None
    )
    yield from judge_post_processor(document, ids, special)
    yield from judge_form(document, ids)
    yield from judge_model(document["model"], vocabulary, {token for token, _ in added})
    yield from judge_added(tokens)


def _added_tokens(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Only where `_added` found them well formed."""
    return [token for token in document.get("added_tokens") or [] if isinstance(token, dict)]


def _vocabulary(document: dict[str, Any]) -> dict[str, int] | None:
    """Token to id of the model proper; None when it is malformed."""
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        if all(type(number) is int for number in vocabulary.values()):
            return vocabulary
    elif isinstance(vocabulary, list):  # Unigram: [piece, score], the id is the position
        pieces = [item[0] for item in vocabulary if isinstance(item, list) and len(item) == 2]
        if len(pieces) == len(vocabulary) and all(isinstance(piece, str) for piece in pieces):
            return {piece: number for number, piece in enumerate(pieces)}
    return None


def _added(document: dict[str, Any]) -> list[tuple[str, int]] | None:
    tokens = document.get("added_tokens") or []
    if not isinstance(tokens, list):
        return None
    pairs = [(t.get("content"), t.get("id")) for t in tokens if isinstance(t, dict)]
    whole = len(pairs) == len(tokens)
    known = [(c, i) for c, i in pairs if isinstance(c, str) and type(i) is int]
    return known if whole and len(known) == len(pairs) else None


def _check_identifiers(vocabulary: dict[str, int], added: list[tuple[str, int]]) -> Found:
    """One id, one token; one token, one id."""
    by_id: dict[int, str] = {}
    for token, number in vocabulary.items():
        other = by_id.setdefault(number, token)
        if other != token:
            fact = f"the id {number} means both {quoted(other)} and {quoted(token)}"
            yield "tokenizer.duplicate-id", fact
            break
    seen: dict[str, int] = {}
    numbers: dict[int, str] = {}
    for token, number in added:
        if seen.setdefault(token, number) != number:
            fact = f"the added token {quoted(token)} has the ids {seen[token]} and {number}"
            yield "tokenizer.alias", fact
        if numbers.setdefault(number, token) != token:
            fact = (
                f"the added tokens {quoted(numbers[number])} and {quoted(token)} share id {number}"
            )
            yield "tokenizer.alias", fact
        if vocabulary.get(token, number) != number or by_id.get(number, token) != token:
            fact = f"the added token {quoted(token)} with id {number} contradicts the vocabulary"
            yield "tokenizer.alias", fact


def _check_bounds(
    vocabulary: dict[str, int], added: list[tuple[str, int]], rows: int | None
) -> Found:
    if negative := [token for token, number in [*vocabulary.items(), *added] if number < 0]:
        yield "tokenizer.id", f"negative ids: {listed(negative)}"
    if rows is None:
        return
    if beyond := [token for token, number in vocabulary.items() if number >= rows]:
        fact = f"{listed(beyond)} have ids beyond the {rows} embeddings"
        yield "tokenizer.beyond-embeddings", fact
    far = [t for t, n in added if n >= rows and n != rows and not may_lie_beyond(t, n, rows)]
    far += [t for t, n in added if n == rows and not may_lie_beyond(t, n, rows)]
    if far:
        fact = f"the added tokens {listed(far)} have ids beyond the {rows} embeddings"
        yield "tokenizer.beyond-embeddings", fact
