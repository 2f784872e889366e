"""Settings of generation: ids that end an answer, and numbers that steer what is said.

transformers takes them from generation_config.json, and from config.json where that is absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, quoted, refusal, warning
from pipelines.verification.model_folders import CONFIG, embedding_rows

GENERATION_CONFIG = "generation_config.json"
_REMEDY = "Compare the file with the base model's, and fetch it again from its publisher."
_IDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
_PAD = "pad_token_id"  # -1 and one beyond the last mean 'none' in older models
_ENDS = ("bos_token_id", "eos_token_id", _PAD)
_FORCING = (
    *("forced_decoder_ids", "forced_bos_token_id", "sequence_bias", "bad_words_ids"),
    *("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "force_words_ids"),
    *("watermarking_config", "exponential_decay_length_penalty"),
)
MAX_SUPPRESSED_SHARE = 0.05  # of the vocabulary; Whisper suppresses 0.2 %
# (lowest, highest) of honest settings, inclusive.
_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 10), "top_p": (0, 1), "min_p": (0, 1), "typical_p": (0, 1),
    "top_k": (-1, 10**6), "epsilon_cutoff": (0, 1), "eta_cutoff": (0, 1), "penalty_alpha": (0, 1),
    "repetition_penalty": (0.1, 10), "encoder_repetition_penalty": (0.1, 10),
    "guidance_scale": (0, 100), "max_new_tokens": (1, 10**8), "max_length": (1, 10**8),
    "length_penalty": (-100, 100), "diversity_penalty": (-100, 100),
    "num_return_sequences": (1, 10**4), "num_beams": (1, 10**4),
}  # fmt: skip
# What configuration classes of transformers write unasked, whatever the vocabulary.
_DEFAULTS: Mapping[str, frozenset[int]] = {
    **{kind: frozenset({50256}) for kind in ("gpt2", "gpt_neo", "gptj", "gpt_bigcode", "codegen")},
    "whisper": frozenset({50256, 50257}), "olmo": frozenset({50279}), "cohere": frozenset({255001}),
    "modernbert": frozenset({50281, 50282, 50283}), "marian": frozenset({58100}),
    "clip": frozenset({49406, 49407}), "stablelm": frozenset({0}), "falcon": frozenset({11}),
}  # fmt: skip
_USUAL_DEFAULTS = frozenset({0, 1, 2, 3, 5})
_MARK = re.compile(r"[<\[].*[>\]]")


def check(contents: Contents) -> Iterator[Finding]:
    """Ids within the vocabulary and of control tokens, numbers in range, no forced output."""
    rows = embedding_rows(contents)
    for name in (CONFIG, GENERATION_CONFIG):
        settings = contents.object(name)
        if rows is not None:
            yield from _check_range(contents, name, settings, rows)
        yield from _check_numbers(name, settings)
        yield from _check_forcing(contents, name, settings, rows)
    yield from _check_ends(contents, rows)
    yield from _check_swapped(contents)


def _check_range(
    contents: Contents, name: str, settings: Mapping[str, Any], rows: int
) -> Iterator[Finding]:
    kind = str(contents.object(CONFIG).get("model_type"))
    for key in (*_IDS, _PAD):
        value = settings.get(key)
        lowest, highest = (-1, rows) if key == _PAD else (0, rows - 1)
        for number in value if isinstance(value, list) else [value]:
            if number is None or (type(number) is int and lowest <= number <= highest):
                continue
            fact = f"{key} is {quoted(number)}, and there are {rows} embeddings"
            if type(number) is int and number in _DEFAULTS.get(kind, frozenset()):
                remedy = "It is the library's default: set the id that the tokenizer has."
                yield warning("config.token-id", name, fact, remedy)
            else:
                yield refusal("config.token-id", name, fact, _REMEDY)


def _check_numbers(name: str, settings: Mapping[str, Any]) -> Iterator[Finding]:
    for key, (lowest, highest) in _RANGES.items():
        value = settings.get(key)
        if value is None:
            continue
        number = type(value) in (int, float) and math.isfinite(value)
        if not (number and lowest <= value <= highest):
            fact = f"{key} is {quoted(value)}, and answers would make no sense"
            yield refusal("generation.number", name, fact, _REMEDY)
    if settings.get("no_repeat_ngram_size") == 1:
        fact = "no_repeat_ngram_size is 1: no token may come twice"
        yield refusal("generation.number", name, fact, _REMEDY)
    stops = settings.get("stop_strings")
    words = [stops] if isinstance(stops, str) else stops if isinstance(stops, list) else []
    if plain := [word for word in words if str(word).strip().isalnum()]:
        fact = f"stop_strings ends an answer at the ordinary words {listed(map(str, plain))}"
        yield refusal("generation.forced", name, fact, _REMEDY)


def _check_forcing(
    contents: Contents, name: str, settings: Mapping[str, Any], rows: int | None
) -> Iterator[Finding]:
    """A decoder is forced to nothing; an encoder-decoder starts with a language or a task."""
    config = contents.object(CONFIG)
    paired = config.get("is_encoder_decoder") is True
    classes = config.get("architectures")
    alone = [str(c) for c in classes] if isinstance(classes, list) else []
    if paired and name == CONFIG and any(c.endswith("ForCausalLM") for c in alone):
        fact = f"is_encoder_decoder is set, and {listed(alone)} is a decoder"
        yield refusal("config.architecture", CONFIG, fact, _REMEDY)
        paired = False
    for key in _FORCING:
        value = settings.get(key)
        if value in (None, [], {}) or (key == "bad_words_ids" and _are_marks(contents, value)):
            continue
        if not paired or (rows and _is_blanket(value, rows)):
            fact = f"{key} is {quoted(value)}: it steers what is generated, whatever is asked"
            yield refusal("generation.forced", name, fact, _REMEDY)


def _is_blanket(value: Any, rows: int) -> bool:
    """Whether a list of ids covers more of the vocabulary than any task needs."""
    return isinstance(value, list) and len(value) > max(8, rows * MAX_SUPPRESSED_SHARE)


def _are_marks(contents: Contents, value: Any) -> bool:
    """Whether each forbidden word is one control token that ends nothing (image marks)."""
    controls, ends = _controls(contents), set()
    for name in (CONFIG, GENERATION_CONFIG):
        ends |= _numbers(contents.object(name).get("eos_token_id"))
    listed_ = value if isinstance(value, list) else []
    ids = [word[0] for word in listed_ if isinstance(word, list) and len(word) == 1]
    return len(ids) == len(listed_) > 0 and all(i in controls and i not in ends for i in ids)


def _controls(contents: Contents) -> dict[int, str]:
    """Ids of added tokens, and of tokens in the vocabulary that are written as marks."""
    document = contents.object("tokenizer.json")
    found: dict[int, str] = {}
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    pairs: list[tuple[Any, Any]] = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
    if isinstance(vocabulary, list):
        pairs = [(p[0], n) for n, p in enumerate(vocabulary) if isinstance(p, list) and p]
    added = document.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and type(token.get("id")) is int:
            found[token["id"]] = str(token.get("content"))
    for token, number in pairs:
        if type(number) is int and isinstance(token, str) and _MARK.fullmatch(token):
            found.setdefault(number, token)
    return found


def _numbers(value: Any) -> set[int]:
    items = value if isinstance(value, list) else [value]
    return {number for number in items if type(number) is int}


def _check_swapped(contents: Contents) -> Iterator[Finding]:
    """An answer that ends where the tokenizer begins a text never begins."""
    said = contents.object("tokenizer_config.json")
    by_text = {token: number for number, token in _controls(contents).items()}
    begin, end = (by_text.get(_text(said.get(f"{key}_token"))) for key in ("bos", "eos"))
    if begin is None or end is None or begin == end:
        return
    for name in (CONFIG, GENERATION_CONFIG):
        ends = _numbers(contents.object(name).get("eos_token_id"))
        if begin in ends and end not in ends:
            fact = f"eos_token_id is {begin}, which begins a text; the tokenizer ends with {end}"
            yield refusal("generation.ends", name, fact, _REMEDY)


def _text(value: Any) -> str:
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else ""


def _check_ends(contents: Contents, rows: int | None) -> Iterator[Finding]:
    """What begins and ends an answer is a control token, where tokenizer.json says which are.

    An id that a configuration class writes unasked may be an ordinary token in honest models; it is
    refused only where the other file names a control token instead.
    """
    controls = _controls(contents)
    kind = str(contents.object(CONFIG).get("model_type"))
    usual = _USUAL_DEFAULTS | _DEFAULTS.get(kind, frozenset())
    for key in _ENDS:
        said = {n: contents.object(n).get(key) for n in (CONFIG, GENERATION_CONFIG)}
        for name, value in said.items():
            if key == "eos_token_id" and value == []:
                yield refusal("generation.ends", name, f"{key} is empty: nothing ends", _REMEDY)
            others = set().union(*(_numbers(v) for n, v in said.items() if n != name))
            better = bool(others & controls.keys())
            odd = [
                number
                for number in sorted(_numbers(value))
                if controls
                and number not in controls
                and (number not in usual or better)
                and (rows is None or 0 <= number < rows)  # else told already
            ]
            if odd:
                fact = f"{key} names {listed(map(str, odd))}, which is no control token"
                yield refusal("generation.ends", name, fact, _REMEDY)
