"""GGUF files put together from bytes, so that every field can lie."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.corpus import bases

U32, F32, STRING, ARRAY, U64 = 4, 6, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, body: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + body


def strings(values: list[str]) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(text(value) for value in values)


@dataclass
class GgufTensor:
    """A tensor description with its data; `offset` None puts it where it belongs."""

    name: str
    data: bytes
    shape: tuple[int, ...]  # fastest dimension first
    kind: int = 0
    offset: int | None = None


@dataclass
class GgufBytes:
    """All fields of one file; each may be set to a lie."""

    keys: list[bytes] = field(default_factory=list)
    tensors: list[GgufTensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    tensor_count: int | None = None
    key_count: int | None = None
    pad: bytes = b"\x00"
    tail: bytes = b""

    def build(self) -> bytes:
        """The file."""
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts) + b"".join(self.keys)
        data = b""
        for tensor in self.tensors:
            offset = len(data) if tensor.offset is None else tensor.offset
            dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            head += text(tensor.name) + dimensions + struct.pack("<IQ", tensor.kind, offset)
            data += self._aligned(tensor.data)
        return self._aligned(head) + data + self.tail

    def _aligned(self, data: bytes) -> bytes:
        return data + self.pad * (-len(data) % self.alignment)


def honest_gguf() -> GgufBytes:
    """The Llama of `bases`, in F32, with its tokenizer and template."""
    sizes = {
        "llama.context_length": 128,
        "llama.embedding_length": bases.WIDTH,
        "llama.block_count": bases.LAYERS,
        "llama.feed_forward_length": bases.INNER,
        "llama.attention.head_count": bases.HEADS,
        "llama.attention.head_count_kv": bases.KEYS,
        "llama.rope.dimension_count": bases.WIDTH // bases.HEADS,
        "llama.vocab_size": bases.VOCABULARY,
        "general.file_type": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    tokens = [*bases.CONTROL, *(chr(97 + number) for number in range(26))]
    tokens += [f"w{number}" for number in range(bases.VOCABULARY - len(tokens))]
    keys = [
        key("general.architecture", STRING, text("llama")),
        key("general.name", STRING, text("Tiny Llama")),
        key("general.license", STRING, text("mit")),
        *(key(name, U32, struct.pack("<I", value)) for name, value in sizes.items()),
        key("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)),
        key("tokenizer.ggml.model", STRING, text("gpt2")),
        key("tokenizer.ggml.pre", STRING, text("gpt-2")),
        key("tokenizer.ggml.tokens", ARRAY, strings(tokens)),
        key("tokenizer.ggml.token_type", ARRAY, _types(len(tokens))),
        key("tokenizer.ggml.merges", ARRAY, strings(["t h", "h e"])),
        key("tokenizer.chat_template", STRING, text(bases.TEMPLATE)),
    ]
    tensors = [
        GgufTensor(_gguf_name(name), array.tobytes(), tuple(reversed(array.shape)))
        for name, array in bases.weights().items()
    ]
    return GgufBytes(keys, tensors)


def _types(count: int) -> bytes:
    kinds = [3] * len(bases.CONTROL) + [1] * (count - len(bases.CONTROL))
    return struct.pack("<IQ", 5, count) + np.array(kinds, "<i4").tobytes()


_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _gguf_name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_PARTS[rest.removesuffix('.weight')]}.weight"


def scalar(name: str, value: Any) -> bytes:
    """An unsigned 32-bit key."""
    return key(name, U32, struct.pack("<I", value))
