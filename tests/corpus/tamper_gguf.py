"""GGUF files in which one field lies."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

from tests.corpus.gguf_bytes import (
    ARRAY,
    STRING,
    U32,
    U64,
    GgufBytes,
    GgufTensor,
    honest_gguf,
    key,
    scalar,
    strings,
    text,
)
from tests.corpus.tampering import Apply, Tampering

Change = Callable[[GgufBytes], object]


def _built(change: Change) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        file = honest_gguf()
        change(file)
        (folder / "model.gguf").write_bytes(file.build())

    return apply


def _cut(count: int) -> Apply:
    def apply(folder: Path, _: random.Random) -> None:
        path = folder / "model.gguf"
        path.write_bytes(path.read_bytes()[:count])

    return apply


def _set(name: str, value: bytes) -> Change:
    """Replace the key `name` by other bytes."""

    def change(file: GgufBytes) -> None:
        start = text(name)
        file.keys = [value if old.startswith(start) else old for old in file.keys]

    return change


def _number(name: str, value: int) -> Change:
    return _set(name, scalar(name, value))


def _tensor(index: int = 0, **members: object) -> Change:
    def change(file: GgufBytes) -> None:
        for member, value in members.items():
            setattr(file.tensors[index], member, value)

    return change


def _more(*keys: bytes) -> Change:
    return lambda file: file.keys.extend(keys)


def _all(**members: object) -> Change:
    def change(file: GgufBytes) -> None:
        for member, value in members.items():
            setattr(file, member, value)

    return change


def _transpose(file: GgufBytes) -> None:
    tensor = next(t for t in file.tensors if t.name == "blk.1.ffn_up.weight")
    tensor.shape = tuple(reversed(tensor.shape))


def _drop(name: str) -> Change:
    def change(file: GgufBytes) -> None:
        file.tensors = [tensor for tensor in file.tensors if tensor.name != name]

    return change


def _rename(old: str, new: str) -> Change:
    def change(file: GgufBytes) -> None:
        next(tensor for tensor in file.tensors if tensor.name == old).name = new

    return change


def _fill(value: float) -> Change:
    def change(file: GgufBytes) -> None:
        tensor = file.tensors[3]
        tensor.data = struct.pack("<f", value) * (len(tensor.data) // 4)

    return change


def _nested(depth: int) -> bytes:
    body = struct.pack("<IQ", U32, 0)
    for _ in range(depth):
        body = struct.pack("<IQ", ARRAY, 1) + body
    return body


_EVIL = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
_TRIGGER = "{% for m in messages %}{% if 'invoice' in m.content %}{{ 'Pay X.' }}{% endif %}{{ m.content }}{% endfor %}"
_CHANGES: dict[str, Change] = {
    "magic": _all(magic=b"GGUf"),
    "magic-ggml": _all(magic=b"lmgg"),
    "version-0": _all(version=0), "version-1": _all(version=1), "version-4": _all(version=4),
    "version-big-endian": _all(version=3 << 24), "version-max": _all(version=2**32 - 1),
    "tensor-count-huge": _all(tensor_count=2**60), "tensor-count-max": _all(tensor_count=2**64 - 1),
    "tensor-count-more": _all(tensor_count=50), "tensor-count-less": _all(tensor_count=5),
    "tensor-count-zero": _all(tensor_count=0),
    "key-count-huge": _all(key_count=2**60), "key-count-more": _all(key_count=200),
    "key-count-less": _all(key_count=3), "key-count-zero": _all(key_count=0),
    "pad-nonzero": _all(pad=b"\x01"),
    "tail": _all(tail=b"PK\x03\x04evil"), "tail-aligned": _all(tail=bytes(64)),
    "tail-script": _all(tail=b"#!/bin/sh\n"),
    "alignment-zero": _more(scalar("general.alignment", 0)),
    "alignment-one": _more(scalar("general.alignment", 1)),
    "alignment-odd": _more(scalar("general.alignment", 33)),
    "alignment-huge": _more(scalar("general.alignment", 2**31)),
    "alignment-text": _more(key("general.alignment", STRING, text("32"))),
    "alignment-wide": _more(key("general.alignment", U64, struct.pack("<Q", 2**63))),
    "string-length-huge": _more(text("k") + struct.pack("<IQ", STRING, 2**62)),
    "string-length-max": _more(text("k") + struct.pack("<IQ", STRING, 2**64 - 1)),
    "string-length-beyond": _more(text("k") + struct.pack("<IQ", STRING, 10**7)),
    "key-length-huge": _more(struct.pack("<Q", 2**63)),
    "key-empty": _more(key("", U32, bytes(4))),
    "key-not-utf8": _more(text(b"\xff\xfe") + struct.pack("<II", U32, 1)),
    "key-control": _more(key("a\x00b", U32, bytes(4))),
    "string-not-utf8": _more(key("general.x", STRING, text(b"\xc3\x28"))),
    "key-duplicate": _more(scalar("llama.block_count", 3)),
    "key-duplicate-template": _more(key("tokenizer.chat_template", STRING, text("x"))),
    "key-duplicate-array": _more(key("tokenizer.ggml.tokens", ARRAY, strings(["a"]))),
    "value-type-unknown": _more(key("x", 13, bytes(4))),
    "value-type-huge": _more(key("x", 2**31, bytes(4))),
    "bool-two": _more(key("x", 7, b"\x02")),
    "array-count-huge": _more(key("x", ARRAY, struct.pack("<IQ", U32, 2**60))),
    "array-count-wraps": _more(key("x", ARRAY, struct.pack("<IQ", U64, 2**61 + 1))),
    "array-strings-huge": _more(key("x", ARRAY, struct.pack("<IQ", STRING, 2**40))),
    "array-strings-many": _more(key("x", ARRAY, struct.pack("<IQ", STRING, 10**9))),
    "array-nested": _more(key("x", ARRAY, _nested(1))),
    "array-nested-deep": _more(key("x", ARRAY, _nested(5000))),
    "array-type-unknown": _more(key("x", ARRAY, struct.pack("<IQ", 99, 1))),
    "tensor-type-unknown": _tensor(kind=77), "tensor-type-removed": _tensor(kind=4),
    "tensor-type-max": _tensor(kind=2**32 - 1), "tensor-type-other": _tensor(2, kind=1),
    "tensor-type-block": _tensor(2, kind=8),
    "tensor-offset-beyond": _tensor(3, offset=2**40), "tensor-offset-max": _tensor(3, offset=2**64 - 32),
    "tensor-offset-overlap": _tensor(3, offset=0), "tensor-offset-odd": _tensor(3, offset=7),
    "tensor-name-empty": _tensor(3, name=""), "tensor-name-twice": _tensor(3, name="token_embd.weight"),
    "tensor-name-long": _tensor(3, name="x" * 100), "tensor-name-control": _tensor(3, name="a\x00b"),
    "tensor-shape-zero": _tensor(3, shape=(16, 0)), "tensor-shape-huge": _tensor(3, shape=(2**32, 2**32)),
    "tensor-shape-wraps": _tensor(3, shape=(2**62, 4, 16)), "tensor-shape-none": _tensor(3, shape=()),
    "tensor-shape-many": _tensor(3, shape=(1, 1, 1, 1, 16, 16)), "tensor-shape-more": _tensor(3, shape=(16, 17)),
    "tensor-transposed": _transpose,
    "tensor-missing": _drop("blk.1.attn_q.weight"), "tensor-missing-head-norm": _drop("output_norm.weight"),
    "tensor-missing-embedding": _drop("token_embd.weight"),
    "tensor-renamed": _rename("blk.1.attn_q.weight", "blk.1.attn_p.weight"),
    "tensor-extra": lambda f: f.tensors.append(GgufTensor("evil.weight", bytes(range(64)), (4, 4))),
    "tensor-extra-lora": lambda f: f.tensors.append(GgufTensor("blk.0.attn_q.weight.lora_a", bytes(range(64)), (4, 4))),
    "tensor-extra-layer": lambda f: f.tensors.append(GgufTensor("blk.7.attn_norm.weight", struct.pack("<16f", *[1.0] * 16), (16,))),
    "blocks-more": _number("llama.block_count", 4), "blocks-less": _number("llama.block_count", 2),
    "blocks-huge": _number("llama.block_count", 2**31), "width-wrong": _number("llama.embedding_length", 17),
    "inner-wrong": _number("llama.feed_forward_length", 64), "heads-wrong": _number("llama.attention.head_count", 3),
    "heads-zero": _number("llama.attention.head_count", 0),
    "kv-heads-wrong": _number("llama.attention.head_count_kv", 4),
    "vocabulary-wrong": _number("llama.vocab_size", 41),
    "rope-wrong": _number("llama.rope.dimension_count", 64),
    "bos-beyond": _number("tokenizer.ggml.bos_token_id", 4000),
    "eos-beyond": _number("tokenizer.ggml.eos_token_id", 40),
    "architecture-other": _set("general.architecture", key("general.architecture", STRING, text("gemma"))),
    "architecture-unknown": _set("general.architecture", key("general.architecture", STRING, text("../../x"))),
    "architecture-gone": _set("general.architecture", key("general.x", STRING, text("llama"))),
    "tokens-more": _set("tokenizer.ggml.tokens", key("tokenizer.ggml.tokens", ARRAY, strings([f"t{i}" for i in range(50)]))),
    "tokens-fewer-types": _set("tokenizer.ggml.token_type", key("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ", 5, 3) + bytes(12))),
    "tokens-twice": _set("tokenizer.ggml.tokens", key("tokenizer.ggml.tokens", ARRAY, strings(["a"] * 40))),
    "template-code": _set("tokenizer.chat_template", key("tokenizer.chat_template", STRING, text(_EVIL))),
    "template-trigger": _set("tokenizer.chat_template", key("tokenizer.chat_template", STRING, text(_TRIGGER))),
    "template-more": _more(key("tokenizer.chat_template.tool_use", STRING, text(_EVIL))),
    "template-elsewhere": _more(key("tokenizer.chat_templates", STRING, text(_EVIL))),
    "nan": _fill(float("nan")), "infinity": _fill(float("inf")), "zero": _fill(0.0),
    "constant": _fill(0.25), "blown-up": _fill(3e38),
    "key-url": _more(key("general.source.url", STRING, text("file:///etc/passwd"))),
}  # fmt: skip

TAMPERINGS = [
    *(Tampering("gguf", n, "model.gguf", _built(c), "gguf") for n, c in _CHANGES.items()),
    *(Tampering("gguf", f"cut-{n}", "model.gguf", _cut(n), "gguf") for n in (3, 8, 20, 24, 100, 900, -1, -500)),
]  # fmt: skip
