"""Tokens and their ids: control tokens in disguise, merges and scores that cannot be right."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.verification.findings import quoted, words

Found = Iterator[tuple[str, str]]

_MODELS = words("BPE WordPiece WordLevel Unigram")
_TOP = words(
    "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model"
)
_BARE_NAMES = words("unk pad eos bos sep cls mask")
_SENSES = re.compile(r"image|audio|video|vision|soft_token", re.IGNORECASE)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
LARGE_VOCABULARY = 1_000  # below it, a vocabulary without merges may be a toy
MAX_SCORE = 1.0  # log-probabilities are negative; tokens of the user's own have 0
MIN_TRUNCATION = 8
MAX_PADDING = 1 << 22


def judge_form(document: Mapping[str, Any], ids: Mapping[str, int]) -> Found:
    """Top-level members: known ones, with settings that leave a text whole."""
    for key, value in document.items():
        if key not in _TOP and key != "chat_template" and value not in (None, [], {}):
            yield "tokenizer.form", f"it has the unknown member {quoted(key)}"
    truncation = document.get("truncation")
    if isinstance(truncation, dict):
        length = truncation.get("max_length")
        if type(length) is not int or length < MIN_TRUNCATION:
            yield "tokenizer.truncates", f"it cuts every text to {quoted(length)} tokens"
    padding = document.get("padding")
    if isinstance(padding, dict):
        strategy = padding.get("strategy")
        fixed = strategy.get("Fixed") if isinstance(strategy, dict) else 0
        if type(fixed) is not int or fixed > MAX_PADDING:
            yield "tokenizer.form", f"it pads every text to {quoted(fixed)} tokens"
        token, number = padding.get("pad_token"), padding.get("pad_id")
        if isinstance(token, str) and ids.get(token, number) != number:
            yield (
                "tokenizer.alias",
                f"it pads with id {quoted(number)}, which is not {quoted(token)}",
            )


def judge_model(model: Mapping[str, Any], vocabulary: Mapping[str, int], added: set[str]) -> Found:
    """Type, merges, scores and settings of the model proper."""
    kind = model.get("type", "Unigram" if isinstance(model.get("vocab"), list) else "BPE")
    if str(kind) not in _MODELS:
        yield "tokenizer.form", f"its model has the unknown type {quoted(kind)}"
    elif kind == "BPE":
        yield from _judge_merges(model, vocabulary, added)
    elif kind == "Unigram":
        yield from _judge_scores(model)
    yield from _judge_settings(model)
    unknown = model.get("unk_token")
    if unknown is not None and str(unknown) not in {*vocabulary, *added}:
        yield "tokenizer.form", f"its unknown token {quoted(unknown)} is not in the vocabulary"
    if model.get("dropout") not in (None, 0, 0.0):
        fact = f"dropout is {quoted(model['dropout'])}: the same text gives other tokens each time"
        yield "tokenizer.dropout", fact


def _judge_settings(model: Mapping[str, Any]) -> Found:
    """Switches are switches, and what marks the inside or the end of a word is no word."""
    for key in ("byte_fallback", "ignore_merges", "fuse_unk"):
        if model.get(key) not in (None, True, False):
            yield "tokenizer.form", f"{key} is {quoted(model[key])}, which is no switch"
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        mark = model.get(key)
        if mark and (not isinstance(mark, str) or mark.isalnum()):
            yield "tokenizer.rewrites", f"{key} is {quoted(mark)}, which is text"


def _judge_merges(
    model: Mapping[str, Any], vocabulary: Mapping[str, int], added: set[str]
) -> Found:
    merges = model.get("merges")
    if not isinstance(merges, list):
        yield "tokenizer.merges", "it has no list of merges"
        return
    long = [t for t in vocabulary if len(t) > 1 and t not in added and not _BYTE.fullmatch(t)]
    if not merges and len(long) > LARGE_VOCABULARY:
        yield "tokenizer.merges", f"it has no merges, and {len(long)} tokens that need them"
    seen: set[tuple[str, ...]] = set()
    prefix = str(model.get("continuing_subword_prefix") or "")
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        pair = tuple(parts) if isinstance(parts, list) else ()
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            yield "tokenizer.merges", f"{quoted(merge)} is no merge of two tokens"
            return
        made = pair[0] + pair[1].removeprefix(prefix)
        if pair in seen or any(part not in vocabulary for part in (*pair, made)):
            fact = f"the merge {quoted(pair)} stands twice, or names what is not in the vocabulary"
            yield "tokenizer.merges", fact
            return
        seen.add(pair)


def _judge_scores(model: Mapping[str, Any]) -> Found:
    pieces: Any = model.get("vocab")
    seen: set[str] = set()
    for piece, score in pieces:
        number = type(score) in (int, float)
        if not number or not math.isfinite(score) or score > MAX_SCORE:
            yield "tokenizer.scores", f"{quoted(piece)} has the score {quoted(score)}"
            return
        if piece in seen:
            yield "tokenizer.duplicate-id", f"the piece {quoted(piece)} stands twice"
            return
        seen.add(piece)
    unknown = model.get("unk_id")
    if unknown is not None and not (type(unknown) is int and 0 <= unknown < len(pieces)):
        yield "tokenizer.form", f"unk_id is {quoted(unknown)}, of {len(pieces)} pieces"


def judge_added(tokens: Sequence[Mapping[str, Any]]) -> Found:
    """Names that a reader, or a filter of prompts, would take for something else."""
    seen: set[str] = set()
    for token in tokens:
        content = str(token.get("content"))
        special = token.get("special") is True
        if content in seen:
            yield "tokenizer.alias", f"the added token {quoted(content)} stands twice"
        seen.add(content)
        if not content or (special and content.isspace()):
            yield "tokenizer.alias", f"the added token {quoted(content)} is not to be seen"
        elif looks_like_another(content):
            fact = f"the added token {quoted(content)} has characters that look like others"
            yield "tokenizer.alias", fact
        elif special and _is_plain_word(content):
            yield "tokenizer.alias", f"the ordinary word {quoted(content)} is a control token"


def _is_plain_word(text: str) -> bool:
    plain = text.isascii() and text.isalpha() and text.islower() and len(text) > 1
    return plain and text not in _BARE_NAMES


def looks_like_another(text: str) -> bool:
    """Whether a text has invisible characters, or letters of two scripts in one word."""
    if any(unicodedata.category(c) == "Cf" for c in text):
        return True
    return any(len(_scripts(word)) > 1 for word in re.findall(r"[^\W\d_]+", text))


def _scripts(word: str) -> set[str]:
    """Latin, Greek and Cyrillic have letters that look alike; others are not told apart."""
    found = set()
    for character in word:
        name = unicodedata.name(character, "").split(" ")[0]
        if name in ("LATIN", "GREEK", "CYRILLIC"):
            found.add(name)
    return found


def may_lie_beyond(token: str, number: int, rows: int) -> bool:
    """Whether an added token may have no embedding: Gemma 3 names a picture's in text models."""
    return number < rows + 64 and bool(_SENSES.search(token))
