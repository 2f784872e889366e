"""Settings of the whole repository: token ids that generation uses, against the embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.records import Finding
from pipelines.verification.model_folders import CONFIG, embedding_rows
from pipelines.verification.contents import Contents
from pipelines.verification.findings import quoted, refusal
from pipelines.verification.gguf_header import GgufHeader

GENERATION_CONFIG = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
_REMEDY = "Compare the file with the base model's, and fetch it again from its publisher."
_FORCING = ("forced_decoder_ids", "forced_bos_token_id", "sequence_bias", "bad_words_ids")


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
    for name, gguf in contents.ggufs.items():
        yield from _check_gguf(name, gguf)


def _check_ids(name: str, settings: dict[str, Any], rows: int) -> Iterator[Finding]:
    for key in _IDS:
        value = settings.get(key)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (type(number) is int and number < rows):
                fact = f"{key} is {quoted(number)}, and there are {rows} embeddings"
                yield refusal("config.token-id", name, fact, _REMEDY)


def _check_gguf(name: str, gguf: GgufHeader) -> Iterator[Finding]:
    tokens = gguf.array_lengths.get("tokenizer.ggml.tokens")
    rows = next(
        (t.shape[1] for t in gguf.tensors if t.name == "token_embd.weight" and len(t.shape) == 2),
        None,
    )
    if tokens is not None and rows is not None and tokens > rows:
        fact = f"it has {tokens} tokens and {rows} embeddings"
        yield refusal("tokenizer.beyond-embeddings", name, fact, _REMEDY)
