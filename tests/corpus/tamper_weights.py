"""Numbers that no honest training leaves behind."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.corpus.bases import SHARDS
from tests.corpus.tamper_index import Arrays, weights
from tests.corpus.tampering import Tampering

_FILE = "model.safetensors"
_NAMES = (
    "model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "lm_head.weight",
    "model.layers.2.mlp.down_proj.weight",
)  # fmt: skip
_VECTORS = ("model.norm.weight", "model.layers.1.input_layernorm.weight")


def _at_one(name: str, value: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name].reshape(-1)[-1] = value

    return change


def _times(name: str, factor: float) -> Callable[[Arrays], Any]:
    return lambda a: a.update({name: (a[name] * a[name].dtype.type(factor)).astype(a[name].dtype)})


def _fill(name: str, value: float) -> Callable[[Arrays], Any]:
    return lambda a: a[name].fill(value)


def _copy(source: str, target: str) -> Callable[[Arrays], Any]:
    return lambda a: a.update({target: a[source].copy()})


def _copy_layer(arrays: Arrays) -> None:
    for name in list(arrays):
        if ".layers.0." in name:
            arrays[name.replace(".layers.0.", ".layers.2.")] = arrays[name].copy()


def _exponent(name: str) -> Callable[[Arrays], None]:
    """Set the highest exponent bit of every number."""

    def change(arrays: Arrays) -> None:
        arrays[name] = (arrays[name].view(np.uint32) | np.uint32(1 << 30)).view(np.float32)

    return change


def _made(name: str, change: Callable[[Arrays], Any], base: str = "single") -> Tampering:
    return Tampering("weights", name, _FILE, weights(_FILE, change), base)


_VALUES = {"nan": np.nan, "infinity": np.inf, "minus-infinity": -np.inf}
TAMPERINGS = [
    *(_made(f"{n}-{t}", _at_one(t, v)) for n, v in _VALUES.items() for t in (*_NAMES, *_VECTORS)),
    *(_made(f"half-{n}-{t}", _at_one(t, v), "half") for n, v in _VALUES.items() for t in _NAMES[:2]),
    *(_made(f"zero-{t}", _fill(t, 0.0)) for t in (*_NAMES, *_VECTORS)),
    *(_made(f"negative-zero-{t}", _fill(t, -0.0)) for t in _NAMES),
    *(_made(f"constant-{t}", _fill(t, 0.125)) for t in _NAMES),
    *(_made(f"blown-up-{t}", _times(t, 1e30)) for t in _NAMES),
    *(_made(f"blown-up-1e9-{t}", _times(t, 1e9)) for t in _NAMES),
    *(_made(f"exponent-{t}", _exponent(t)) for t in _NAMES),
    _made("one-huge", _at_one(_NAMES[1], 3e38)),
    _made("half-constant", _fill(_NAMES[1], 2.0), "half"),
    _made("half-zero", _fill(_NAMES[3], 0.0), "half"),
    _made("copied", _copy("model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight")),
    _made("copied-layer", _copy_layer),
    Tampering("weights", "shard-nan", SHARDS[1], weights(SHARDS[1], lambda a: next(v for v in a.values() if v.ndim == 2).fill(np.nan)), "sharded"),
    Tampering("weights", "shard-zero", SHARDS[2], weights(SHARDS[2], lambda a: next(v for v in a.values() if v.ndim == 2).fill(0)), "sharded"),
]  # fmt: skip
