"""Settings of the whole repository: token ids that generation uses, against the embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import quoted, refusal
from pipelines.verification.model_folders import CONFIG, embedding_rows

GENERATION_CONFIG = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
_PAD = "pad_token_id"  # -1 and one beyond the last mean 'none' in older models
_REMEDY = "Compare the file with the base model's, and fetch it again from its publisher."
_FORCING = (
    *("forced_decoder_ids", "forced_bos_token_id", "sequence_bias", "bad_words_ids"),
    *("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "force_words_ids"),
)


def check(contents: Contents) -> Iterator[Finding]:
    """Objects where objects belong, ids within the vocabulary, no forced output."""
    for name in (CONFIG, GENERATION_CONFIG, "tokenizer_config.json", "tokenizer.json"):
        if name in contents.documents and not isinstance(contents.documents[name], dict):
            yield refusal("json.not-an-object", name, "its top level is not an object")
    rows = embedding_rows(contents)
    for name in (CONFIG, GENERATION_CONFIG):
        settings = contents.object(name)
        if rows is not None:
            yield from _check_ids(name, settings, rows)
    for key in _FORCING:
        value = contents.object(GENERATION_CONFIG).get(key)
        if value not in (None, [], {}) and not contents.object(CONFIG).get("is_encoder_decoder"):
            fact = f"{key} is {quoted(value)}: it steers what is generated, whatever is asked"
            yield refusal("generation.forced", GENERATION_CONFIG, fact, _REMEDY)


def _check_ids(name: str, settings: dict[str, Any], rows: int) -> Iterator[Finding]:
    for key in _IDS:
        value = settings.get(key)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (type(number) is int and 0 <= number < rows):
                fact = f"{key} is {quoted(number)}, and there are {rows} embeddings"
                yield refusal("config.token-id", name, fact, _REMEDY)
    pad = settings.get(_PAD)
    if pad is not None and not (type(pad) is int and -1 <= pad <= rows):
        fact = f"{_PAD} is {quoted(pad)}, and there are {rows} embeddings"
        yield refusal("config.token-id", name, fact, _REMEDY)
