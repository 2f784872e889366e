"""Tokenizers: rules that rewrite text, aliases of control tokens, identifiers that do not agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.records import Finding
from pipelines.verification.model_folders import embedding_rows
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, quoted, refusal, warning
from pipelines.verification.strict_json import walk

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
_REMEDY = "Compare the file with the base model's, and fetch it again from its publisher."
# In a replacement, everything that stands for a class of characters or a count, not for text.
_REGEX_CLASSES = re.compile(
    r"\\[pP]\{\^?\w+\}|\\x\{[0-9a-fA-F]+\}|\\[a-zA-Z]|\{\d+,?\d*\}|\(\?[a-z!=<:]+"
)


def check(contents: Contents) -> Iterator[Finding]:
    """tokenizer.json by itself, then against tokenizer_config.json and the embeddings."""
    document = contents.object(TOKENIZER)
    if not document:
        return
    yield from _check_rewriting(document)
    vocabulary = _vocabulary(document)
    added = _added(document)
    if vocabulary is None or added is None:
        fact = "its vocabulary or its added tokens do not have a known form"
        yield refusal("tokenizer.form", TOKENIZER, fact, _REMEDY)
        return
    yield from _check_identifiers(vocabulary, added)
    yield from _check_bounds(vocabulary, added, embedding_rows(contents))
    yield from _check_post_processor(document, {**vocabulary, **dict(added)})
    yield from _check_config(contents.object(TOKENIZER_CONFIG), dict(added))


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


def _check_rewriting(document: dict[str, Any]) -> Iterator[Finding]:
    """Normalisers and decoders may change spaces and marks, never words."""
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        for path, key, value in walk({part: document.get(part)}):
            if key == "type" and value == "Replace":
                continue
            if not (isinstance(value, dict) and value.get("type") == "Replace"):
                continue
            pattern, content = value.get("pattern"), value.get("content")
            texts = list(pattern.values()) if isinstance(pattern, dict) else [pattern]
            plain = [_REGEX_CLASSES.sub("", str(text)) for text in texts] + [str(content)]
            if any(character.isalnum() for text in plain for character in text):
                fact = f"{quoted(path)} rewrites {quoted(pattern)} as {quoted(content)}"
                yield refusal("tokenizer.rewrites", TOKENIZER, fact, _REMEDY)


def _check_identifiers(
    vocabulary: dict[str, int], added: list[tuple[str, int]]
) -> Iterator[Finding]:
    """One id, one token; one token, one id."""
    by_id: dict[int, str] = {}
    for token, number in vocabulary.items():
        other = by_id.setdefault(number, token)
        if other != token:
            fact = f"the id {number} means both {quoted(other)} and {quoted(token)}"
            yield refusal("tokenizer.duplicate-id", TOKENIZER, fact, _REMEDY)
            break
    seen: dict[str, int] = {}
    numbers: dict[int, str] = {}
    for token, number in added:
        if seen.setdefault(token, number) != number:
            fact = f"the added token {quoted(token)} has the ids {seen[token]} and {number}"
            yield refusal("tokenizer.alias", TOKENIZER, fact, _REMEDY)
        if numbers.setdefault(number, token) != token:
            fact = (
                f"the added tokens {quoted(numbers[number])} and {quoted(token)} share id {number}"
            )
            yield refusal("tokenizer.alias", TOKENIZER, fact, _REMEDY)
        if vocabulary.get(token, number) != number or by_id.get(number, token) != token:
            fact = f"the added token {quoted(token)} with id {number} contradicts the vocabulary"
            yield refusal("tokenizer.alias", TOKENIZER, fact, _REMEDY)


def _check_bounds(
    vocabulary: dict[str, int], added: list[tuple[str, int]], rows: int | None
) -> Iterator[Finding]:
    if negative := [token for token, number in [*vocabulary.items(), *added] if number < 0]:
        yield refusal("tokenizer.id", TOKENIZER, f"negative ids: {listed(negative)}", _REMEDY)
    if rows is None:
        return
    if beyond := [token for token, number in vocabulary.items() if number >= rows]:
        fact = f"{listed(beyond)} have ids beyond the {rows} embeddings"
        yield refusal("tokenizer.beyond-embeddings", TOKENIZER, fact, _REMEDY)
    if beyond := [token for token, number in added if number >= rows]:
        fact = f"the added tokens {listed(beyond)} have ids beyond the {rows} embeddings"
        remedy = "Never put them into a prompt; the model has no vector for them."
        yield warning("tokenizer.beyond-embeddings", TOKENIZER, fact, remedy)


def _check_post_processor(document: dict[str, Any], ids: dict[str, int]) -> Iterator[Finding]:
    """Tokens that are put around every text must be the tokens that they are called."""
    for _, key, value in walk({"post_processor": document.get("post_processor")}):
        if key != "special_tokens" or not isinstance(value, dict):
            continue
        for name, entry in value.items():
            numbers = entry.get("ids") if isinstance(entry, dict) else None
            tokens = entry.get("tokens") if isinstance(entry, dict) else None
            said = tokens if isinstance(tokens, list) else [name]
            if numbers != [ids.get(token) for token in said]:
                fact = f"the post-processor puts the ids {quoted(numbers)} in for {quoted(said)}"
                yield refusal("tokenizer.post-processor", TOKENIZER, fact, _REMEDY)


def _check_config(config: dict[str, Any], added: dict[str, int]) -> Iterator[Finding]:
    """added_tokens_decoder of tokenizer_config.json repeats the added tokens."""
    decoder = config.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return
    contents = {number: token for token, number in added.items()}
    for key, entry in decoder.items():
        said = entry.get("content") if isinstance(entry, dict) else None
        if not key.isdigit() or not isinstance(said, str):
            fact = f"added_tokens_decoder has the entry {quoted(key)}: {quoted(entry)}"
            yield refusal("tokenizer.form", TOKENIZER_CONFIG, fact, _REMEDY)
        elif (other := contents.get(int(key[:9]), said)) != said:
            fact = f"id {key} is {quoted(said)} here and {quoted(other)} in {TOKENIZER}"
            yield refusal("tokenizer.alias", TOKENIZER_CONFIG, fact, _REMEDY)
