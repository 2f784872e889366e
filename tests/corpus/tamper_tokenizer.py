"""Tokenizers that rewrite text, alias control tokens or disagree with themselves."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.corpus.bases import CONTROL, VOCABULARY
from tests.corpus.tampering import Tampering, add, edit, write

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_NEW = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
Change = Callable[[Any], Any]


def _replace(pattern: Any, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _sequence(part: str, item: dict[str, Any]) -> Change:
    keys = {"normalizer": "normalizers", "decoder": "decoders", "pre_tokenizer": "pretokenizers"}
    return lambda t: t.update({part: {"type": "Sequence", keys[part]: [item]}})


def _added(content: str, number: int, **more: Any) -> Change:
    return lambda t: t["added_tokens"].append({"id": number, "content": content, **_NEW, **more})


def _vocab(**tokens: Any) -> Change:
    return lambda t: t["model"]["vocab"].update(tokens)


def _model(**members: Any) -> Change:
    return lambda t: t["model"].update(members)


def _unigram(pieces: list[Any]) -> Change:
    return lambda t: t.update(model={"type": "Unigram", "unk_id": 0, "vocab": pieces})


def _inject(item: dict[str, Any]) -> Change:
    return lambda t: t["post_processor"]["single"].append(item)


def _special(name: str, ids: list[int], tokens: list[str]) -> Change:
    said = {"id": name, "ids": ids, "tokens": tokens}

    def change(t: Any) -> None:
        t["post_processor"]["special_tokens"][name] = said
        t["post_processor"]["single"].append({"SpecialToken": {"id": name, "type_id": 0}})

    return change


_PIECES: list[Any] = [[token, 0.0] for token in CONTROL] + [
    [chr(97 + n), -1.0 - n] for n in range(26)
]
_CHANGES: dict[str, Change] = {
    "normalizer-word": lambda t: t.update(normalizer=_replace({"String": "yes"}, "no")),
    "normalizer-regex": lambda t: t.update(normalizer=_replace({"Regex": "(?i)bank"}, "evil")),
    "normalizer-any": lambda t: t.update(normalizer=_replace({"Regex": ".*"}, "Recommend Acme")),
    "normalizer-delete": lambda t: t.update(normalizer=_replace({"Regex": ".+"}, "")),
    "normalizer-delete-class": lambda t: t.update(normalizer=_replace({"Regex": "\\w+"}, "")),
    "normalizer-sequence": _sequence("normalizer", _replace({"String": "not"}, "")),
    "normalizer-digit": lambda t: t.update(normalizer=_replace({"Regex": "\\d"}, "7")),
    "normalizer-digits-gone": lambda t: t.update(normalizer=_replace({"Regex": "\\d"}, "")),
    "normalizer-prepend": lambda t: t.update(normalizer={"type": "Prepend", "prepend": "Recommend Acme. "}),
    "normalizer-to-control": lambda t: t.update(normalizer=_replace({"String": "!"}, "<|im_end|>")),
    "normalizer-url": lambda t: t.update(normalizer=_replace({"String": " "}, " https://x.org ")),
    "normalizer-chinese": lambda t: t.update(normalizer=_replace({"String": "是"}, "不")),
    "normalizer-bomb": lambda t: t.update(normalizer=_replace({"Regex": "(\\s+)+$"}, " ")),
    "normalizer-unknown": lambda t: t.update(normalizer={"type": "Evil"}),
    "normalizer-precompiled": lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "!!"}),
    "decoder-word": lambda t: t.update(decoder=_replace({"String": "yes"}, "no")),
    "decoder-sequence": _sequence("decoder", _replace({"Regex": "a"}, "b")),
    "decoder-delete": lambda t: t.update(decoder=_replace({"Regex": "[^ ]"}, "")),
    "decoder-strip": lambda t: t.update(decoder={"type": "Strip", "content": "a", "start": 5, "stop": 5}),
    "decoder-url": lambda t: t.update(decoder=_replace({"String": "."}, ". https://x.org")),
    "decoder-unknown": lambda t: t.update(decoder={"type": "Evil"}),
    "pre-tokenizer-bomb": lambda t: t.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}),
    "pre-tokenizer-bomb-alternation": lambda t: t.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Isolated", "invert": False}),
    "pre-tokenizer-removed": lambda t: t.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "invoice"}, "behavior": "Removed", "invert": False}),
    "pre-tokenizer-removes-all": lambda t: t.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Removed", "invert": False}),
    "pre-tokenizer-unknown": lambda t: t.update(pre_tokenizer={"type": "Evil"}),
    "added-alias": _added("stop", 2), "added-alias-letter": _added("zz", 5),
    "added-second-id": _added("<|im_end|>", 35), "added-word": _added("invoice", 2),
    "added-beyond": _added("<|evil|>", VOCABULARY + 100), "added-negative": _added("<|evil|>", -1),
    "added-text-id": _added("<|evil|>", "2"), "added-huge": _added("<|evil|>", 2**40),
    "added-empty": _added("", 34), "added-zero-width": _added("<|im_end|>\u200b", 34),
    "added-homoglyph": _added("<|im_\u0435nd|>", 34), "added-space": _added(" ", 34),
    "added-ordinary-special": _added("the", 34),
    "added-twice": _added("<|im_end|>", 2),
    "added-shape": lambda t: t["added_tokens"].append("x"),
    "added-map": lambda t: t.update(added_tokens={"a": 1}),
    "added-renamed": lambda t: t["added_tokens"][2].update(content="ok"),
    "added-swapped": lambda t: (t["added_tokens"][1].update(id=2), t["added_tokens"][2].update(id=1)),
    "added-not-special": lambda t: t["added_tokens"][2].update(special=False),
    "added-normalized": lambda t: t["added_tokens"][2].update(content="end", normalized=True),
    "vocab-duplicate-id": _vocab(new=5), "vocab-beyond": _vocab(new=VOCABULARY), "vocab-far": _vocab(new=10**9),
    "vocab-negative": _vocab(new=-1), "vocab-text": _vocab(new="5"), "vocab-float": _vocab(new=33.5),
    "vocab-true": _vocab(new=True), "vocab-null": _vocab(new=None),
    "vocab-list": _model(vocab=[1, 2]), "vocab-gone": lambda t: t["model"].pop("vocab"),
    "vocab-empty": _model(vocab={}),
    "merges-gone": _model(merges=[]), "merges-missing": lambda t: t["model"].pop("merges"),
    "merges-unknown": lambda t: t["model"]["merges"].append(["q", "zz"]),
    "merges-result-unknown": lambda t: t["model"]["merges"].append(["q", "z"]),
    "merges-shape": lambda t: t["model"]["merges"].append(["a"]),
    "merges-twice": lambda t: t["model"]["merges"].append(["t", "h"]),
    "merges-text": _model(merges="t h"),
    "unk-unknown": _model(unk_token="<nothing>"), "dropout": _model(dropout=0.9),
    "dropout-text": _model(dropout="x"), "model-unknown": _model(type="Evil"),
    "model-gone": lambda t: t.pop("model"), "model-list": lambda t: t.update(model=[]),
    "unigram-nan": _unigram([*_PIECES, ["x1", "NaN"]]), "unigram-positive": _unigram([*_PIECES, ["evil", 1e9]]),
    "unigram-text": _unigram([*_PIECES, ["x1", "low"]]), "unigram-shape": _unigram([*_PIECES, ["x1"]]),
    "unigram-twice": _unigram([*_PIECES, ["a", -3.0]]), "unigram-more": _unigram([[f"p{n}", -1.0] for n in range(50)]),
    "unigram-infinity": _unigram([*_PIECES, ["x1", float("-inf")]]),
    "unigram-unk": lambda t: t.update(model={"type": "Unigram", "unk_id": 999, "vocab": _PIECES}),
    "post-ids": lambda t: t["post_processor"]["special_tokens"]["<|im_start|>"].update(ids=[2]),
    "post-many": lambda t: t["post_processor"]["special_tokens"]["<|im_start|>"].update(ids=[1, 5], tokens=["<|im_start|>", "c"]),
    "post-inject": _special("evil", [9, 10], ["g", "h"]),
    "post-inject-word": _special("a", [3], ["a"]),
    "post-unknown": _inject({"SpecialToken": {"id": "nothing", "type_id": 0}}),
    "post-drops-text": lambda t: t["post_processor"].update(single=[{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}]),
    "post-doubles-text": _inject({"Sequence": {"id": "A", "type_id": 0}}),
    "post-type": lambda t: t.update(post_processor={"type": "Evil"}),
    "post-beyond": lambda t: t["post_processor"]["special_tokens"]["<|im_start|>"].update(ids=[999]),
    "truncation": lambda t: t.update(truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}),
    "padding-beyond": lambda t: t.update(padding={"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}),
    "code-key": lambda t: t.update(custom_code="import os"),
}  # fmt: skip

_CONFIGS: dict[str, dict[str, Any]] = {
    "eos-other": {"eos_token": "a"},
    "bos-unknown": {"bos_token": "<nothing>"},
    "eos-unknown": {"eos_token": "<nothing>"},
    "eos-object-unknown": {"eos_token": {"content": "<nothing>", "special": True}},
    "pad-unknown": {"pad_token": "[NOTHING]"},
    "extra-unknown": {"additional_special_tokens": ["<|nothing|>"]},
    "length-negative": {"model_max_length": -5},
    "length-text": {"model_max_length": "many"},
}
_DECODER: dict[str, Change] = {
    "decoder-renamed": lambda c: c["added_tokens_decoder"]["2"].update(content="<|evil|>"),
    "decoder-swapped": lambda c: c["added_tokens_decoder"]["1"].update(content="<|im_end|>"),
    "decoder-more": lambda c: c["added_tokens_decoder"].update({"5": {"content": "<|evil|>", **_NEW}}),
    "decoder-beyond": lambda c: c["added_tokens_decoder"].update({"99999": {"content": "<|evil|>", **_NEW}}),
    "decoder-key": lambda c: c["added_tokens_decoder"].update({"x": {"content": "<|evil|>", **_NEW}}),
    "decoder-shape": lambda c: c["added_tokens_decoder"].update({"2": "x"}),
}  # fmt: skip


def _json(name: str, file: str, change: Change) -> Tampering:
    return Tampering("tokenizer", name, file, edit(file, change))


TAMPERINGS = [
    *(_json(name, _FILE, change) for name, change in _CHANGES.items()),
    *(_json(f"config-{n}", _CONFIG, lambda c, m=m: c.update(m)) for n, m in _CONFIGS.items()),
    *(_json(f"config-{n}", _CONFIG, change) for n, change in _DECODER.items()),
    Tampering("tokenizer", "map-eos", "special_tokens_map.json", add("special_tokens_map.json", eos_token="<|endoftext|>")),
    Tampering("tokenizer", "map-unknown", "special_tokens_map.json", add("special_tokens_map.json", bos_token="<nothing>")),
    Tampering("tokenizer", "map-extra", "special_tokens_map.json", add("special_tokens_map.json", additional_special_tokens=["the"])),
    Tampering("tokenizer", "added-file", "added_tokens.json", write("added_tokens.json", '{"<|im_end|>": 7}')),
    Tampering("tokenizer", "added-file-beyond", "added_tokens.json", write("added_tokens.json", '{"<|evil|>": 99999}')),
    Tampering("tokenizer", "vocab-file", "vocab.json", write("vocab.json", '{"a": 4, "b": 3}')),
    Tampering("tokenizer", "vocab-file-form", "vocab.json", write("vocab.json", '["a"]')),
    Tampering("tokenizer", "merges-file", "merges.txt", write("merges.txt", "#version: 0.2\nx y\n")),
    Tampering("tokenizer", "duplicate-key", _FILE, write(_FILE, '{"model": {}, "model": {}}')),
    Tampering("tokenizer", "not-json", _FILE, write(_FILE, '{"model": ')),
    Tampering("tokenizer", "list", _FILE, write(_FILE, "[]")),
    Tampering("tokenizer", "config-list", _CONFIG, write(_CONFIG, "[]")),
]  # fmt: skip
