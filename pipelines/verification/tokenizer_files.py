"""Files that repeat what tokenizer.json says: they must say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.verification.contents import Contents
from pipelines.verification.findings import quoted
from pipelines.verification.tokenizer_tokens import MIN_TRUNCATION, may_lie_beyond

Found = Iterator[tuple[str, str, str]]  # rule, file, fact

_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
_CONTROL = re.compile(r"[^\w\s].*[^\w\s]")
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"


def judge_files(
    contents: Contents, ids: Mapping[str, int], special: Mapping[str, bool], rows: int | None
) -> Found:
    """Compare the files of the root with the tokens that tokenizer.json has.

    `special` maps each added token to whether it is a control token; `rows` are the embeddings.
    """
    config = contents.object(TOKENIZER_CONFIG)
    repeated = _decoder_tokens(config)
    known = {**ids, **repeated}
    for file in (TOKENIZER_CONFIG, SPECIAL_MAP):
        yield from _judge_named(file, contents.object(file), known, {*special, *repeated})
    yield from _judge_map(config, contents.object(SPECIAL_MAP))
    yield from _judge_config(config, ids, special, rows)
    yield from _judge_added(contents.object("added_tokens.json"), ids, rows)
    yield from _judge_vocabulary(contents, ids)


def _content(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _decoder_tokens(config: Mapping[str, Any]) -> dict[str, int]:
    decoder = config.get("added_tokens_decoder")
    found = {}
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        content = _content(entry)
        if key.isdigit() and content is not None:
            found[content] = int(key[:9])
    return found


def _judge_named(
    file: str, document: Mapping[str, Any], ids: Mapping[str, int], added: set[str]
) -> Found:
    more = document.get("additional_special_tokens") or document.get("extra_special_tokens") or []
    more = list(more.values()) if isinstance(more, dict) else more
    names = {key: document[key] for key in _NAMED if document.get(key) is not None}
    listed = enumerate(more) if isinstance(more, list) else ()
    names |= {f"additional_special_tokens[{number}]": value for number, value in listed}
    for key, value in names.items():
        token = _content(value)
        if token is None or (token not in ids and token):
            yield "tokenizer.unknown-token", file, f"{key} is {quoted(value)}, which is no token"
        elif token and token not in added and not _CONTROL.fullmatch(token):
            yield "tokenizer.alias", file, f"{key} is the ordinary token {quoted(token)}"


def _judge_map(config: Mapping[str, Any], special: Mapping[str, Any]) -> Found:
    for key in _NAMED:
        one, other = _content(config.get(key)), _content(special.get(key))
        if one is not None and other is not None and one != other:
            fact = f"{key} is {quoted(other)} in {SPECIAL_MAP} and {quoted(one)} here or there"
            yield "tokenizer.contradiction", SPECIAL_MAP, fact
            yield "tokenizer.contradiction", TOKENIZER_CONFIG, fact


def _judge_config(
    config: Mapping[str, Any],
    ids: Mapping[str, int],
    special: Mapping[str, bool],
    rows: int | None,
) -> Found:
    if config.get("split_special_tokens") is True:
        fact = "split_special_tokens is set: control tokens are read as ordinary text"
        yield "tokenizer.alias", TOKENIZER_CONFIG, fact
    length = config.get("model_max_length")
    if length is not None and not (type(length) in (int, float) and length >= MIN_TRUNCATION):
        yield "tokenizer.form", TOKENIZER_CONFIG, f"model_max_length is {quoted(length)}"
    tokens = {number: token for token, number in ids.items()}
    decoder = config.get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        said = _content(entry)
        if not isinstance(entry, dict) or not key.isdigit() or said is None:
            fact = f"added_tokens_decoder has the entry {quoted(key)}: {quoted(entry)}"
            yield "tokenizer.form", TOKENIZER_CONFIG, fact
            continue
        number = int(key[:9])
        if tokens.get(number, said) != said or ids.get(said, number) != number:
            fact = f"id {key} is {quoted(said)} here and {quoted(tokens.get(number))} elsewhere"
            yield "tokenizer.alias", TOKENIZER_CONFIG, fact
        elif rows is not None and number >= rows and not may_lie_beyond(said, number, rows):
            fact = f"{quoted(said)} has the id {number}, and there are {rows} embeddings"
            yield "tokenizer.beyond-embeddings", TOKENIZER_CONFIG, fact
        flag = entry.get("special")
        if said in special and isinstance(flag, bool) and flag != special[said]:
            fact = f"{quoted(said)} is a control token in one of two files only"
            yield "tokenizer.alias", TOKENIZER_CONFIG, fact
            yield "tokenizer.alias", "tokenizer.json", fact


def _judge_added(document: Mapping[str, Any], ids: Mapping[str, int], rows: int | None) -> Found:
    tokens = {number: token for token, number in ids.items()}
    for token, number in document.items():
        if type(number) is int and token not in ids and number in tokens:
            fact = f"{quoted(token)} has the id {number}, which is {quoted(tokens[number])}"
            yield "tokenizer.alias", "added_tokens.json", fact
        elif type(number) is not int or ids.get(token, number) != number:
            fact = f"{quoted(token)} has the id {quoted(number)} here, {ids.get(token)} elsewhere"
            yield "tokenizer.alias", "added_tokens.json", fact
        elif rows is not None and number >= rows and not may_lie_beyond(token, number, rows):
            fact = f"{quoted(token)} has the id {number}, and there are {rows} embeddings"
            yield "tokenizer.beyond-embeddings", "added_tokens.json", fact


def _judge_vocabulary(contents: Contents, ids: Mapping[str, int]) -> Found:
    if "vocab.json" in contents.documents:
        document = contents.documents["vocab.json"]
        if not isinstance(document, dict):
            yield "tokenizer.form", "vocab.json", "its top level is not an object"
        elif any(type(number) is int for number in document.values()):
            odd = [token for token, number in document.items() if ids.get(token) != number]
            if odd:
                fact = f"{quoted(odd[0])} has the id {quoted(document[odd[0]])} here, not there"
                yield "tokenizer.contradiction", "vocab.json", f"{fact} (tokenizer.json)"
    model = contents.object("tokenizer.json").get("model")
    if not isinstance(model, dict):
        return
    merges = model.get("merges")
    if contents.formats.get("merges.txt") == "text" and isinstance(merges, list):
        pairs = [m for m in merges if isinstance(m, list)]
        ours = {m for m in merges if isinstance(m, str)}
        ours |= {" ".join(map(str, pair)) for pair in pairs}
        lines = contents.paths["merges.txt"].read_text(encoding="utf-8").split("\n")
        theirs = {line for line in lines if line.strip() and not line.startswith("#version")}
        if odd_lines := sorted(theirs - ours):
            fact = f"it has the merge {quoted(odd_lines[0])}, tokenizer.json does not"
            yield "tokenizer.contradiction", "merges.txt", fact
    if contents.formats.get("vocab.txt") == "text" and model.get("type") == "WordPiece":
        lines = contents.paths["vocab.txt"].read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines):
            if line and ids.get(line.rstrip("\r"), number) != number:
                fact = f"{quoted(line)} has the id {number} here, {ids[line]} in tokenizer.json"
                yield "tokenizer.contradiction", "vocab.txt", fact
                break
