"""Adapters whose tensors and config do not agree."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.corpus.bases import WIDTH
from tests.corpus.tamper_index import Arrays, weights
from tests.corpus.tampering import Tampering, edit

_FILE, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_AT = "base_model.model.model.layers.0.self_attn"
_A, _B = f"{_AT}.q_proj.lora_A.weight", f"{_AT}.q_proj.lora_B.weight"


def _said(name: str, **members: Any) -> Tampering:
    apply = edit(_CONFIG, lambda config: config.update(members))
    return Tampering("adapter", f"config-{name}", _CONFIG, apply, "adapter")


def _tensors(name: str, change: Callable[[Arrays], Any]) -> Tampering:
    return Tampering("adapter", f"tensor-{name}", _FILE, weights(_FILE, change), "adapter")


def _ones(*shape: int) -> Any:
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


TAMPERINGS = [
    _said("rank", r=8),
    _said("rank-zero", r=0),
    _said("rank-text", r="4"),
    _said("rank-huge", r=10**9),
    _said("alpha-huge", lora_alpha=10**9),
    _said("alpha-text", lora_alpha="x"),
    _said("targets-other", target_modules=["k_proj"]),
    _said("targets-fewer", target_modules=["q_proj"]),
    _said("targets-more", target_modules=["q_proj", "v_proj", "up_proj"]),
    _said("targets-none", target_modules=None),
    _said("targets-empty", target_modules=[]),
    _said("type-other", peft_type="PREFIX_TUNING"),
    _said("type-unknown", peft_type="EVIL"),
    _said("type-none", peft_type=None),
    _said("saved-not-there", modules_to_save=["lm_head"]),
    _said("dora-not-there", use_dora=True),
    _said("base-url", base_model_name_or_path="https://example.org/model"),
    _said("base-path", base_model_name_or_path="../../evil"),
    _said("base-file", base_model_name_or_path="file:///evil"),
    _said("import", auto_mapping={"base_model_class": "X", "parent_library": "evil.module"}),
    _said("corda", corda_config={"cache_file": "/tmp/x.pt"}),
    _said("trust", trust_remote_code=True),
    _said("auto-map", auto_map={"AutoModel": "x.Y"}),
    _said("custom-modules", _custom_modules={"x": "evil.Linear"}),
    _tensors("a-gone", lambda a: a.pop(_A)),
    _tensors("b-gone", lambda a: a.pop(_B)),
    _tensors("a-wider", lambda a: a.update({_A: _ones(4, WIDTH + 1)})),
    _tensors("rank-other", lambda a: a.update({_A: _ones(8, WIDTH), _B: _ones(WIDTH, 8)})),
    _tensors("rank-mixed", lambda a: a.update({_A: _ones(2, WIDTH)})),
    _tensors("swapped", lambda a: a.update({_A: a[_B], _B: a[_A]})),
    _tensors("other-target", lambda a: a.update({f"{_AT}.k_proj.lora_A.weight": _ones(4, WIDTH), f"{_AT}.k_proj.lora_B.weight": _ones(8, 4)})),
    _tensors("base-weight", lambda a: a.update({"base_model.model.lm_head.weight": _ones(40, WIDTH)})),
    _tensors("base-weight-of-target", lambda a: a.update({f"{_AT}.q_proj.base_layer.weight": _ones(WIDTH, WIDTH)})),
    _tensors("grafted", lambda a: a.update({"evil.weight": _ones(4, 4)})),
    _tensors("bias", lambda a: a.update({f"{_AT}.q_proj.bias": _ones(WIDTH)})),
    _tensors("nan", lambda a: a[_A].fill(np.nan)),
    _tensors("layer-gone", lambda a: [a.pop(_A), a.pop(_B)]),
    Tampering("adapter", "config-gone", _CONFIG, lambda f, _: (f / _CONFIG).unlink(), "adapter"),
    Tampering("adapter", "weights-gone", _FILE, lambda f, _: (f / _FILE).unlink(), "adapter"),
]  # fmt: skip
