"""The parts of a tokenizer that touch text: what each may change, and which patterns never end.

Normalizers, pre-tokenizers and decoders may change spaces, marks and case, never words; the
post-processor may put control tokens around a text and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.verification.findings import quoted, words
from pipelines.verification.strict_json import walk

Found = Iterator[tuple[str, str]]

# Types that the tokenizers library knows (tokenizers/src, 0.22), by the part they serve.
_TYPES: Mapping[str, frozenset[str]] = {
    "normalizer": words(
        "BertNormalizer Strip StripAccents NFC NFD NFKC NFKD Sequence Lowercase Nmt Precompiled "
        "Replace Prepend ByteLevel"
    ),
    "pre_tokenizer": words(
        "BertPreTokenizer ByteLevel CharDelimiterSplit Metaspace Whitespace Sequence Split "
        "Punctuation WhitespaceSplit Digits UnicodeScripts FixedLength"
    ),
    "decoder": words(
        "BPEDecoder ByteLevel WordPiece Metaspace CTC Sequence Replace Fuse Strip ByteFallback"
    ),
    "post_processor": words(
        "RobertaProcessing BertProcessing ByteLevel TemplateProcessing Sequence"
    ),
}
# In a replacement, everything that stands for a class of characters or a count, not for text.
_REGEX_CLASSES = re.compile(
    r"\\[pP]\{\^?\w+\}|\\x\{[0-9a-fA-F]+\}|\\[a-zA-Z]|\{\d+,?\d*\}|\(\?[a-z!=<:]+"
)
# The setting of each part that names what it puts in, takes out or splits at.
_MARKS = {
    "CharDelimiterSplit": "delimiter",
    "Metaspace": "replacement",
    "CTC": "word_delimiter_token",
    "WordPiece": "prefix",
    "BPEDecoder": "suffix",
}
MAX_PUT_IN = 8  # Whisper puts four in
_SAMPLE = "abc Xyz 019 qé"
_CLASS = re.compile(r"\\.|\[(?:\\.|\[[^\]]*\]|[^\]\\])*\]")
_NESTED = re.compile(r"\((?:\?:)?[^()]*[+*][^()]*\)(?:[+*]|\{\d+,\})")
_SAME_BRANCHES = re.compile(r"\((?:\?:)?([^()|]+)\|\1\)[+*]")
_CONTROL = re.compile(r"[^\w\s].*[^\w\s]|\w{2,3}_\w{2,4}|__\w+__")


def judge_parts(document: Mapping[str, Any]) -> Found:
    """(rule, fact) for normalizer, pre-tokenizer and decoder, and for unknown types anywhere."""
    for part, known in _TYPES.items():
        for path, value in _components(part, document.get(part)):
            kind = value.get("type")
            if str(kind) not in known:
                fact = f"{quoted(path)} is of the unknown type {quoted(kind)}"
                yield "tokenizer.form", fact
            elif part != "post_processor":
                yield from _judge(path, value)


def _components(part: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The part itself and every component of its sequences."""
    pending = [(part, value)]
    while pending:
        path, here = pending.pop()
        if not isinstance(here, dict):
            continue
        yield path, here
        for key in ("normalizers", "pretokenizers", "decoders", "processors"):
            items = here.get(key)
            for number, item in enumerate(items if isinstance(items, list) else ()):
                pending.append((f"{path}.{key}[{number}]", item))


def _judge(path: str, value: Mapping[str, Any]) -> Found:
    kind = value["type"]
    for pattern in _patterns(value):
        if never_ends(pattern):
            yield "tokenizer.pattern", f"{quoted(path)}: {quoted(pattern)} may compute without end"
    if kind == "Replace":
        yield from _judge_replace(path, value)
    elif kind == "Prepend" and _has_word(value.get("prepend")):
        fact = f"{quoted(path)} puts {quoted(value.get('prepend'))} before every text"
        yield "tokenizer.rewrites", fact
    elif kind == "Strip" and _has_word(value.get("content")):
        fact = f"{quoted(path)} takes {quoted(value.get('content'))} away"
        yield "tokenizer.rewrites", fact
    elif (part := _MARKS.get(str(kind))) and str(value.get(part, "")).isalnum():
        fact = f"{quoted(path)} takes the text {quoted(value[part])} for a mark"
        yield "tokenizer.rewrites", fact
    elif kind == "Precompiled" and not _is_base64(value.get("precompiled_charsmap")):
        yield "tokenizer.form", f"{quoted(path)} has a table that is not base64"
    elif kind == "Split" and value.get("behavior") == "Removed" and not value.get("invert"):
        given = _given(value.get("pattern"))
        if any(touches_words(g, "") or _has_word(_REGEX_CLASSES.sub("", g[1])) for g in given):
            fact = f"{quoted(path)} removes what {quoted(value.get('pattern'))} matches"
            yield "tokenizer.rewrites", fact


def _judge_replace(path: str, value: Mapping[str, Any]) -> Found:
    pattern, content = value.get("pattern"), value.get("content")
    texts = list(pattern.values()) if isinstance(pattern, dict) else [pattern]
    plain = [_REGEX_CLASSES.sub("", str(text)) for text in texts] + [str(content)]
    written = any(character.isalnum() for text in plain for character in text)
    if written or any(touches_words(each, str(content)) for each in _given(pattern)):
        yield (
            "tokenizer.rewrites",
            f"{quoted(path)} rewrites {quoted(pattern)} as {quoted(content)}",
        )


def _given(pattern: Any) -> list[tuple[str, str]]:
    """(kind, text) of a pattern: 'Regex' or 'String'."""
    if isinstance(pattern, dict):
        return [(str(kind), text) for kind, text in pattern.items() if isinstance(text, str)]
    return [("String", pattern)] if isinstance(pattern, str) else []


def _patterns(value: Mapping[str, Any]) -> list[str]:
    return [text for kind, text in _given(value.get("pattern")) if kind == "Regex"]


def touches_words(pattern: tuple[str, str], content: str) -> bool:
    """Whether a replacement changes letters or digits of a sample.

    Classes of Unicode properties are read as ASCII ones; a pattern that Python's `re` cannot read
    after that is left to the other rules.
    """
    kind, text = pattern
    if kind == "String":
        return text != "" and any(c.isalnum() for c in text)
    if never_ends(text):
        return False  # has its own finding, and must not be run
    text = re.sub(r"\\p\{L[lutmo]?\}", "a-zA-Z" if "[" in text else "[a-zA-Z]", text)
    text = re.sub(r"\\p\{N[dlo]?\}", "0-9" if "[" in text else "[0-9]", text)
    try:
        changed = re.sub(text, lambda _: content, _SAMPLE)
    except re.error:
        return False
    return _letters(changed) != _letters(_SAMPLE)


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


def never_ends(pattern: str) -> bool:
    """Whether a repetition holds a repetition, or two equal branches (exponential backtracking)."""
    plain = _CLASS.sub("C", pattern)
    return bool(_NESTED.search(plain) or _SAME_BRANCHES.search(plain))


def _has_word(value: Any) -> bool:
    return not isinstance(value, str) or any(character.isalnum() for character in value)


def _is_base64(value: Any) -> bool:
    if value is None:
        return True
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return False
    return True


def judge_post_processor(
    document: Mapping[str, Any], ids: Mapping[str, int], special: frozenset[str]
) -> Found:
    """Tokens put around a text must be what they are called, and control tokens; the text stays."""
    for path, value in _components("post_processor", document.get("post_processor")):
        if value.get("type") == "TemplateProcessing":
            yield from _judge_template(path, value, ids, special)
        for key in ("sep", "cls"):
            pair = value.get(key)
            if isinstance(pair, list) and len(pair) == 2 and ids.get(str(pair[0])) != pair[1]:
                yield (
                    "tokenizer.post-processor",
                    f"{quoted(path)} calls {pair[1]} {quoted(pair[0])}",
                )


def _judge_template(
    path: str, value: Mapping[str, Any], ids: Mapping[str, int], special: frozenset[str]
) -> Found:
    known = value.get("special_tokens")
    known = known if isinstance(known, dict) else {}
    for name, entry in known.items():
        numbers = entry.get("ids") if isinstance(entry, dict) else None
        tokens = entry.get("tokens") if isinstance(entry, dict) else None
        said = [str(t) for t in tokens] if isinstance(tokens, list) else [name]
        if numbers != [ids.get(token) for token in said]:
            fact = f"the post-processor puts the ids {quoted(numbers)} in for {quoted(said)}"
            yield "tokenizer.post-processor", fact
        elif odd := [t for t in said if t not in special and not _CONTROL.fullmatch(t)]:
            fact = f"the post-processor puts the ordinary token {quoted(odd[0])} around every text"
            yield "tokenizer.post-processor", fact
    for form, wanted in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces = value.get(form)
        if pieces is None:
            continue
        texts = [v.get("id") for _, k, v in walk(pieces) if k == "Sequence" and isinstance(v, dict)]
        if texts != wanted:
            fact = f"{quoted(path)} does not give back each text once (form {form})"
            yield "tokenizer.post-processor", fact
        put_in = sum(key == "SpecialToken" for _, key, _ in walk(pieces))
        if put_in > MAX_PUT_IN:
            fact = f"{quoted(path)} puts {put_in} control tokens around every text (form {form})"
            yield "tokenizer.post-processor", fact
        for _, key, piece in walk(pieces):
            unknown = key == "SpecialToken" and isinstance(piece, dict)
            if unknown and str(piece.get("id")) not in known:
                fact = f"{quoted(path)} puts in {quoted(piece.get('id'))}, which it does not define"
                yield "tokenizer.post-processor", fact
