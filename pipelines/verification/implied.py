"""The tensors that a decoder's config implies, in closed form: names and shapes.

One table for the families that share Llama's layout, so that the common case needs no import of
transformers (three CPU seconds). The formulas are those of `modeling_*.py` in transformers;
`tests/pipelines/verification/test_implied.py` compares them with its own models. Architectures
that are not in the table are derived by transformers itself, in `derived.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_COUNT = 100_000  # no config counts more layers or experts than this
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Implied:
    """Shapes of all tensors, and those among them that a file may leave out."""

    shapes: Shapes
    optional: frozenset[str]


@dataclass(frozen=True)
class _Family:
    """How a family differs from Llama."""

    prefix: str  # of its classes in transformers
    tied: bool = False  # what tie_word_embeddings means when a config does not say
    bias_key: str = "attention_bias"  # the key that gives q, k, v and o a bias
    bias: bool = False  # its default
    output_bias: bool = True  # whether o follows the key
    head_dim: int | None = None  # default where it is not hidden_size / heads
    key_value_heads: int | None = None  # default where it is not the number of heads
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norm_bias: bool = False
    query_norm: str = ""  # 'head' for one vector a head, 'all' for one over all heads
    fused: bool = False  # qkv_proj and gate_up_proj
    mlp: str = "gated"  # gated, plain, mixtral, qwen-moe
    needs: tuple[str, ...] = field(default=())  # further keys that must be numbers


_FOUR_NORMS = (
    *("input_layernorm", "post_attention_layernorm"),
    *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)
FAMILIES: Mapping[str, _Family] = {
    "llama": _Family("Llama"),
    "granite": _Family("Granite"),
    "smollm3": _Family("SmolLM3", tied=True, key_value_heads=4),
    "mistral": _Family("Mistral", bias_key="", key_value_heads=8),
    "mixtral": _Family(
        "Mixtral", bias_key="", key_value_heads=8, mlp="mixtral", needs=("num_local_experts",)
    ),
    "qwen2": _Family("Qwen2", bias_key="", bias=True, output_bias=False, key_value_heads=32),
    "qwen2_moe": _Family(
        "Qwen2Moe", bias_key="qkv_bias", bias=True, output_bias=False, key_value_heads=16,
        mlp="qwen-moe",
        needs=("num_experts", "moe_intermediate_size", "shared_expert_intermediate_size"),
    ),
    "qwen3": _Family("Qwen3", head_dim=128, key_value_heads=32, query_norm="head"),
    "qwen3_moe": _Family(
        "Qwen3Moe", key_value_heads=4, query_norm="head", mlp="qwen-moe",
        needs=("num_experts", "moe_intermediate_size"),
    ),
    "gemma": _Family("Gemma", tied=True, head_dim=256, key_value_heads=16),
    "gemma2": _Family("Gemma2", tied=True, head_dim=256, key_value_heads=4, norms=_FOUR_NORMS),
    "gemma3_text": _Family(
        "Gemma3", tied=True, head_dim=256, key_value_heads=4, norms=_FOUR_NORMS, query_norm="head"
    ),
    "olmo2": _Family("Olmo2", norms=_FOUR_NORMS[1:4:2], query_norm="all"),
    "phi3": _Family("Phi3", bias_key="", fused=True),
    "starcoder2": _Family(
        "Starcoder2", tied=True, bias_key="use_bias", bias=True, key_value_heads=2,
        norm_bias=True, mlp="plain",
    ),
}  # fmt: skip
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads"),
)
# Buffers that old versions of transformers saved, and that no version reads.
_LEFTOVER = re.compile(
    r"(?P<owner>.*?)\.?(?P<kind>rotary_emb\.inv_freq|attn\.masked_bias|attention\.masked_bias"
    r"|attn\.bias|attention\.bias|position_ids)"
)
_MAX_POSITIONS = 1 << 20


def implied_tensors(config: Mapping[str, Any]) -> Implied | None:
    """What a text decoder's config implies, or None where this table cannot say.

    The table speaks for `…ForCausalLM` and the bare model of its families, with every size given
    as a positive number. Names are those of the published files, with the prefix `model.`.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if "num_experts" not in config and "num_local_experts" in config:  # its name since v5
        config = {**config, "num_experts": config["num_local_experts"]}
    classes = config.get("architectures")
    if family is None or not isinstance(classes, list) or len(classes) != 1:
        return None
    known = {f"{family.prefix}ForCausalLM", f"{family.prefix}Model", f"{family.prefix}TextModel"}
    if str(classes[0]) not in known or not _are_counts(config, (*_SIZES, *family.needs)):
        return None
    sizes = _Sizes.read(config, family)
    if sizes is None:
        return None
    shapes: Shapes = {"model.embed_tokens.weight": (sizes.vocabulary, sizes.hidden)}
    for layer in range(config["num_hidden_layers"]):
        shapes.update(_layer(f"model.layers.{layer}.", layer, config, family, sizes))
    shapes.update(_norm("model.norm", sizes.hidden, family))
    head = {"lm_head.weight": (sizes.vocabulary, sizes.hidden)}
    bare = not str(classes[0]).endswith("ForCausalLM")
    tied = config.get("tie_word_embeddings", family.tied)
    return Implied({**shapes, **head}, frozenset(head if tied or bare else ()))


def is_leftover(name: str, shape: tuple[int, ...] | None, shapes: Mapping[str, Any]) -> bool:
    """Whether a tensor is a buffer that old versions saved and no version reads.

    It has the shape of one (frequencies, one number, a row of positions, a causal mask) and lies in
    a module that is there; anything else may hide under such a name.
    """
    match = _LEFTOVER.fullmatch(name)
    if match is None or shape is None:
        return False
    owner, kind = match["owner"], match["kind"]
    if owner and not any(other.startswith(f"{owner}.") for other in shapes):
        return False
    axes = [size for size in shape if size != 1]
    if kind.endswith("masked_bias"):
        return not axes
    if kind.endswith("inv_freq"):
        return len(axes) <= 1 and max(axes, default=1) <= 1024
    if kind == "position_ids":
        return len(axes) <= 1 and max(axes, default=1) <= _MAX_POSITIONS
    return len(axes) == 2 and axes[0] == axes[1]  # a causal mask


@dataclass(frozen=True)
class _Sizes:
    vocabulary: int
    hidden: int
    inner: int
    heads: int
    key_value_heads: int
    head_dim: int

    @classmethod
    def read(cls, config: Mapping[str, Any], family: _Family) -> _Sizes | None:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        keys = config.get("num_key_value_heads")
        keys = (family.key_value_heads or heads) if keys is None else keys
        dim = config.get("head_dim")
        dim = (family.head_dim or hidden // heads) if dim is None else dim
        if not (_is_count(keys) and _is_count(dim)):
            return None
        return cls(config["vocab_size"], hidden, config["intermediate_size"], heads, keys, dim)


def _are_counts(config: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    counts = [config.get("num_hidden_layers"), config.get("num_experts", 1)]
    absurd = any(_is_count(count) and count > MAX_COUNT for count in counts)
    return not absurd and all(_is_count(config.get(key)) for key in keys)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _layer(
    at: str, layer: int, config: Mapping[str, Any], family: _Family, sizes: _Sizes
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for norm in family.norms:
        yield from _norm(at + norm, sizes.hidden, family)
    yield from _attention(at + "self_attn.", config, family, sizes)
    if family.mlp == "qwen-moe" and _is_sparse(layer, config):
        yield from _qwen_experts(at + "mlp.", config, sizes)
    elif family.mlp == "mixtral":
        yield from _mixtral_experts(at + "block_sparse_moe.", config, sizes)
    elif family.mlp == "plain":
        bias = bool(config.get("use_bias", True))
        yield from _linear(at + "mlp.c_fc", sizes.inner, sizes.hidden, bias)
        yield from _linear(at + "mlp.c_proj", sizes.hidden, sizes.inner, bias)
    elif family.fused:
        yield from _linear(at + "mlp.gate_up_proj", 2 * sizes.inner, sizes.hidden)
        yield from _linear(at + "mlp.down_proj", sizes.hidden, sizes.inner)
    else:
        yield from _gated(at + "mlp.", sizes.hidden, sizes.inner, bool(config.get("mlp_bias")))


def _attention(
    at: str, config: Mapping[str, Any], family: _Family, sizes: _Sizes
) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = sizes.heads * sizes.head_dim, sizes.key_value_heads * sizes.head_dim
    bias = bool(config.get(family.bias_key, family.bias)) if family.bias_key else family.bias
    if family.fused:
        yield from _linear(at + "qkv_proj", queries + 2 * keys, sizes.hidden)
    else:
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield from _linear(at + name, rows, sizes.hidden, bias)
    yield from _linear(at + "o_proj", sizes.hidden, queries, bias and family.output_bias)
    if family.query_norm:
        over = (sizes.head_dim, sizes.head_dim) if family.query_norm == "head" else (queries, keys)
        yield at + "q_norm.weight", (over[0],)
        yield at + "k_norm.weight", (over[1],)


def _is_sparse(layer: int, config: Mapping[str, Any]) -> bool:
    """Which layers of Qwen's mixtures have experts (modeling_qwen2_moe.py)."""
    given = config.get("mlp_only_layers")
    dense = given if isinstance(given, list) else []
    step = config.get("decoder_sparse_step", 1)
    return layer not in dense and _is_count(step) and (layer + 1) % step == 0


def _qwen_experts(
    at: str, config: Mapping[str, Any], sizes: _Sizes
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear(at + "gate", config["num_experts"], sizes.hidden)
    for expert in range(config["num_experts"]):
        inner = config["moe_intermediate_size"]
        yield from _gated(f"{at}experts.{expert}.", sizes.hidden, inner)
    if "shared_expert_intermediate_size" in config and config["model_type"] == "qwen2_moe":
        shared = config["shared_expert_intermediate_size"]
        yield from _gated(at + "shared_expert.", sizes.hidden, shared)
        yield from _linear(at + "shared_expert_gate", 1, sizes.hidden)


def _mixtral_experts(
    at: str, config: Mapping[str, Any], sizes: _Sizes
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear(at + "gate", config["num_local_experts"], sizes.hidden)
    for expert in range(config["num_local_experts"]):
        for name, rows, columns in (("w1", 1, 0), ("w2", 0, 1), ("w3", 1, 0)):
            widths = (sizes.hidden, sizes.inner)
            yield from _linear(f"{at}experts.{expert}.{name}", widths[rows], widths[columns])


def _gated(
    at: str, hidden: int, inner: int, bias: bool = False
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear(at + "gate_proj", inner, hidden, bias)
    yield from _linear(at + "up_proj", inner, hidden, bias)
    yield from _linear(at + "down_proj", hidden, inner, bias)


def _linear(
    name: str, rows: int, columns: int, bias: bool = False
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _norm(name: str, width: int, family: _Family) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    if family.norm_bias:
        yield f"{name}.bias", (width,)
