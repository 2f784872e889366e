"""Configs that contradict the tensors, and tensors that contradict the config."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.corpus.bases import INNER, KEYS, LAYERS, VOCABULARY, WIDTH
from tests.corpus.tamper_index import Arrays, weights
from tests.corpus.tampering import Apply, Tampering, edit

_Q = "model.layers.1.self_attn.q_proj.weight"
_UP = "model.layers.2.mlp.up_proj.weight"
_FILE = "model.safetensors"

_VALUES: dict[str, list[Any]] = {
    "vocab_size": [VOCABULARY + 1, VOCABULARY - 1, VOCABULARY * 2, 0, -1, "40", 40.5, 10**12],
    "hidden_size": [WIDTH * 2, WIDTH // 2, WIDTH + 1, 0, -16, "16", 2**63],
    "intermediate_size": [INNER * 2, INNER - 1, INNER + 16, 1, -32],
    "num_hidden_layers": [LAYERS + 1, LAYERS - 1, 1, 0, LAYERS * 100, 10**12, -3, "3", 2.5],
    "num_attention_heads": [8, 2, 3, 0, -4, "4"],
    "num_key_value_heads": [KEYS * 2, 1, 3, 0],
    "head_dim": [8, 2, 5],
    "torch_dtype": ["bfloat16", "float16", "float64"],
    "model_type": ["mistral", "gemma", "qwen2", "gpt2"],
    "architectures": [["MistralForCausalLM"], ["Qwen2ForCausalLM"], ["LlamaForSequenceClassification"]],
    "attention_bias": [True],
    "mlp_bias": [True],
    "rms_norm_eps": [1000.0, -1.0, 1],
    "rope_theta": [0, -10000.0, "x"],
    "rope_scaling": [{"rope_type": "linear", "factor": -2.0}, {"rope_type": "linear", "factor": 0},
                     {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}],
    "partial_rotary_factor": [5.0, -1],
    "hidden_act": ["evil", "os.system", ""],
    "max_position_embeddings": [-1, 0, "128"],
    "bos_token_id": [VOCABULARY, -1, "1", 10**9],
    "eos_token_id": [VOCABULARY + 5, [1, 99999], -7],
    "pad_token_id": [VOCABULARY * 10],
}  # fmt: skip


def _slug(value: Any) -> str:
    return "".join(c if c.isalnum() else "_" for c in str(value))[:70]


def _value(key: str, value: Any) -> Tampering:
    apply = edit("config.json", lambda config: config.update({key: value}))
    return Tampering("config", f"{key}-{_slug(value)}", "config.json", apply)


def _tensor(name: str, change: Callable[[Arrays], Any], base: str = "single") -> Tampering:
    return Tampering("config", name, _FILE, weights(_FILE, change), base)


def _cast(name: str, dtype: type) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: arrays[name].astype(dtype)})


def _rename(old: str, new: str) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({new: arrays.pop(old)})


def _resize(name: str, shape: tuple[int, ...]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: np.full(shape, 0.5, np.float32) + np.random.default_rng(1).random(shape, np.float32)})  # fmt: skip


def _graft(*names: str, shape: tuple[int, ...] = (WIDTH, WIDTH)) -> Callable[[Arrays], None]:
    values = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    return lambda arrays: arrays.update({name: values * (at + 1) for at, name in enumerate(names)})


def _bfloat_header(folder: Path, draw: random.Random) -> None:
    """The header calls one float16 tensor bfloat16: the same bytes, other numbers."""
    path = folder / _FILE
    data = path.read_bytes()
    at = data.index(_UP.encode())
    path.write_bytes(
        data[:at] + data[at:].replace(b'"dtype":"F16"', b'"dtype":"BF16"', 1)[: len(data)]
    )
    fix_length(path)


def fix_length(path: Path) -> None:
    """Set the header's length to where its JSON ends now."""
    data = path.read_bytes()
    end = data.index(b"]}}", 8) + 3
    while data[end : end + 1] == b" ":
        end += 1
    path.write_bytes((end - 8).to_bytes(8, "little") + data[8:])


def _all_bfloat(folder: Path, _: random.Random) -> None:
    path = folder / _FILE
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"F16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def _both(first: Apply, second: Apply) -> Apply:
    def apply(folder: Path, draw: random.Random) -> None:
        first(folder, draw)
        second(folder, draw)

    return apply


_LORA = (
    "model.layers.0.self_attn.q_proj.lora_A.weight",
    "model.layers.0.self_attn.q_proj.lora_B.weight",
)
TAMPERINGS = [
    *(_value(key, value) for key, values in _VALUES.items() for value in values),
    Tampering("config", "tied-claimed-untied-gone", "config.json",
        _both(weights(_FILE, lambda a: a.pop("lm_head.weight")), edit("config.json", lambda c: None))),
    Tampering("config", "layers-removed", "config.json", edit("config.json", lambda c: c.pop("num_hidden_layers"))),
    Tampering("config", "empty", "config.json", edit("config.json", lambda c: c.clear())),
    Tampering("config", "gone", "config.json", lambda f, _: (f / "config.json").unlink()),
    Tampering("config", "generation-eos", "generation_config.json", edit("generation_config.json", lambda c: c.update(eos_token_id=[2, 4000]))),
    Tampering("config", "generation-bos", "generation_config.json", edit("generation_config.json", lambda c: c.update(bos_token_id=-2))),
    Tampering("config", "generation-pad", "generation_config.json", edit("generation_config.json", lambda c: c.update(pad_token_id=9999))),
    Tampering("config", "generation-bias", "generation_config.json", edit("generation_config.json", lambda c: c.update(sequence_bias=[[[5], 100.0]]))),
    Tampering("config", "generation-bad-words", "generation_config.json", edit("generation_config.json", lambda c: c.update(bad_words_ids=[[5]]))),
    Tampering("config", "generation-suppress", "generation_config.json", edit("generation_config.json", lambda c: c.update(suppress_tokens=[2]))),
    Tampering("config", "generation-forced-eos", "generation_config.json", edit("generation_config.json", lambda c: c.update(forced_eos_token_id=7))),
    Tampering("config", "generation-forced", "generation_config.json", edit("generation_config.json", lambda c: c.update(forced_decoder_ids=[[1, 5]]))),
    _tensor("missing-q", lambda a: a.pop(_Q)),
    _tensor("missing-norm", lambda a: a.pop("model.norm.weight")),
    _tensor("missing-embedding", lambda a: a.pop("model.embed_tokens.weight")),
    _tensor("missing-head", lambda a: a.pop("lm_head.weight")),
    _tensor("missing-layer", lambda a: [a.pop(n) for n in list(a) if ".layers.1." in n]),
    _tensor("renamed-q", _rename(_Q, "model.layers.1.self_attn.query.weight")),
    _tensor("renamed-layer", _rename(_Q, "model.layers.7.self_attn.q_proj.weight")),
    _tensor("renamed-prefix", _rename(_Q, f"evil.{_Q}")),
    _tensor("grafted-module", _graft("model.layers.0.backdoor.weight")),
    _tensor("grafted-top", _graft("evil.weight")),
    _tensor("grafted-layer", _graft("model.layers.3.self_attn.q_proj.weight")),
    _tensor("grafted-bias", _graft("model.layers.0.self_attn.q_proj.bias", shape=(WIDTH,))),
    _tensor("grafted-lora", _graft(*_LORA, shape=(4, WIDTH))),
    _tensor("grafted-adapter-names", _graft("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight")),
    _tensor("grafted-head", _graft("score.weight", shape=(2, WIDTH))),
    _tensor("grafted-second-head", _graft("lm_head2.weight", shape=(VOCABULARY, WIDTH))),
    _tensor("grafted-experts", _graft("model.layers.0.mlp.experts.0.up_proj.weight", shape=(INNER, WIDTH))),
    _tensor("grafted-quantised", _graft("model.layers.0.self_attn.q_proj.qweight", shape=(2, WIDTH))),
    _tensor("transposed-up", lambda a: a.update({_UP: np.ascontiguousarray(a[_UP].T)})),
    _tensor("transposed-embedding", lambda a: a.update({"model.embed_tokens.weight": np.ascontiguousarray(a["model.embed_tokens.weight"].T)})),
    _tensor("flattened", lambda a: a.update({_UP: a[_UP].reshape(-1)})),
    _tensor("more-rows", _resize("model.embed_tokens.weight", (VOCABULARY + 3, WIDTH))),
    _tensor("wider", _resize(_UP, (INNER + 2, WIDTH))),
    _tensor("norm-longer", _resize("model.norm.weight", (WIDTH + 1,))),
    _tensor("k-like-q", _resize("model.layers.0.self_attn.k_proj.weight", (WIDTH, WIDTH))),
    _tensor("dtype-integer", _cast(_Q, np.int32)),
    _tensor("dtype-half-one", _cast(_Q, np.float16)),
    _tensor("dtype-double", _cast(_UP, np.float64)),
    _tensor("dtype-all-half", lambda a: a.update({n: v.astype(np.float16) for n, v in a.items()})),
    Tampering("config", "dtype-one-bfloat", _FILE, _bfloat_header, "half"),
    Tampering("config", "dtype-all-bfloat", _FILE, _all_bfloat, "half"),
]  # fmt: skip
