"""Numbers of a config that no honest model has, whatever its tensors say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.verification.findings import quoted, words
from pipelines.verification.implied import MAX_COUNT

_COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "n_layer",
    "n_head",
    "n_embd",
    "d_model",
    "num_layers",
    "num_heads",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "n_routed_experts",
    "intermediate_size",
    "moe_intermediate_size",
)
_NEVER_ZERO = (
    *("hidden_size", "num_attention_heads", "num_key_value_heads", "n_head", "d_model"),
    "max_position_embeddings",
)  # fmt: skip
_COUNTED = ("num_hidden_layers", "n_layer", "num_layers", "num_local_experts", "num_experts")
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
MAX_EPSILON = 0.01
MIN_ROPE_THETA, MAX_ROPE_THETA = 10.0, 1e12  # published: 100 (vision) to 1e8 (long contexts)
MAX_MULTIPLIER = 1e6
_DROPOUT = re.compile(r"(.*_)?(dropout|pdrop|layerdrop)(_prob|_rate|_ratio)?")
_MULTIPLIERS = (
    *("logits_scaling", "logit_scale", "embedding_multiplier", "residual_multiplier"),
    *("attention_multiplier", "final_logit_softcapping", "attn_logit_softcapping"),
    *("query_pre_attn_scalar", "routed_scaling_factor", "lm_head_multiplier"),
)
# ACT2FN of transformers (activations.py); a name beyond it is looked up by no loader.
_ACTIVATIONS = words(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh "
    "laplace leaky_relu linear mish prelu quick_gelu relu relu2 relu6 sigmoid silu swish tanh "
    "xielu swiglu geglu glu swigluoai gelu_pytorch identity elu selu softmax softplus"
)
# What sentence-transformers writes for the activation of a dense layer.
_TORCH_ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation\.[A-Z]\w+|linear\.Identity)")


def judge_numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(rule, fact) for counts that are no counts, and settings outside their range."""
    for key in _COUNTS:
        value = config.get(key)
        if value is None or isinstance(value, list | dict):
            continue
        if type(value) is not int or value < 0 or (value == 0 and key in _NEVER_ZERO):
            yield "config.number", f"{key} is {quoted(value)}, which is no count"
        elif key in _COUNTED and value > MAX_COUNT:
            yield "config.number", f"{key} is {value}: no model has so many"
    for key in _EPSILONS:
        value = config.get(key)
        if _is_number(value) and not 0 <= float(str(value)) < MAX_EPSILON:
            yield "config.number", f"{key} is {quoted(value)}: it would drown every activation"
    yield from _factors(config)
    yield from _relations(config)
    for key in ("hidden_act", "hidden_activation", "activation_function"):
        value = config.get(key)
        if not isinstance(value, str) or _TORCH_ACTIVATION.fullmatch(value):
            continue
        if value.lower() not in _ACTIVATIONS:
            yield "config.activation", f"{key} is {quoted(value)}, which is no known activation"


def _factors(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings that scale or drop activations: a wrong one ruins every answer."""
    for key, value in config.items():
        if _DROPOUT.fullmatch(key) and _is_number(value) and not 0 <= value < 1:
            yield "config.number", f"{key} is {quoted(value)}, which is no share"
    for key in _MULTIPLIERS:
        value = config.get(key)
        if _is_number(value) and not 0 <= float(str(value)) <= MAX_MULTIPLIER:
            yield "config.number", f"{key} is {quoted(value)}: it would drown every activation"
    window = config.get("sliding_window")
    if type(window) is int and window < 0:
        yield "config.number", f"sliding_window is {window}, which is no count"


def _relations(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    heads, keys = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if heads and keys and _is_count(heads) and _is_count(keys) and heads % keys:
        fact = f"{heads} attention heads cannot share {keys} key-value heads"
        yield "config.number", fact
    experts = next(
        (config[k] for k in ("num_local_experts", "num_experts") if _is_count(config.get(k))), None
    )
    used = config.get("num_experts_per_tok")
    if experts and used and _is_count(used) and used > experts:
        yield "config.number", f"each token takes {used} of {experts} experts"
    yield from _rope(config)


def _rope(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rotary settings: a positive base, a factor of at least one, lists as long as the rotation."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    scaling = scaling if isinstance(scaling, dict) else {}
    part = config.get("partial_rotary_factor", scaling.get("partial_rotary_factor"))
    if _is_number(part) and not 0 < float(str(part)) <= 1:
        yield "config.rope", f"partial_rotary_factor is {quoted(part)}, and not between 0 and 1"
    for each in (config, scaling):
        theta = each.get("rope_theta")
        if theta is not None and not (
            _is_number(theta) and MIN_ROPE_THETA <= theta <= MAX_ROPE_THETA
        ):
            yield "config.rope", f"rope_theta is {quoted(theta)}"
    factor = scaling.get("factor")
    if factor is not None and not (_is_number(factor) and 1 <= factor <= MAX_MULTIPLIER):
        yield "config.rope", f"the rotary factor is {quoted(factor)}"
    head_dim = _head_dim(config)
    if head_dim is None:
        return
    rotated = int(head_dim * float(str(part) if _is_number(part) else 1)) // 2
    for key in ("short_factor", "long_factor"):
        values = scaling.get(key)
        if isinstance(values, list) and len(values) != rotated:
            yield "config.rope", f"{key} has {len(values)} numbers for {rotated} rotations"
    section = scaling.get("mrope_section")
    whole = isinstance(section, list) and all(type(n) is int for n in section)
    if section and whole and sum(section) not in (rotated, 2 * rotated):
        yield "config.rope", f"mrope_section adds up to {sum(section)}, not {rotated}"


def _head_dim(config: Mapping[str, Any]) -> int | None:
    dim, heads, hidden = (
        config.get(key) for key in ("head_dim", "num_attention_heads", "hidden_size")
    )
    if dim and _is_count(dim):
        return int(dim)
    if heads and hidden and _is_count(heads) and _is_count(hidden):
        return int(hidden) // int(heads)
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
