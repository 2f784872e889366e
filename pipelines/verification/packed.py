"""Quantised checkpoints: which plain tensor the packed ones stand for, and of which shape.

GPTQ and AWQ store a linear layer as qweight, qzeros, scales (and g_idx); bitsandbytes as bytes
with their statistics; FP8 and compressed-tensors as a weight with scales; MLX as words of 32 bits
with scales and biases; EXL2 and EXL3 as q_weight and trellis. To compare a checkpoint
with its config, each group becomes one weight again, with its shape where the packing says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.verification.safetensors_header import Tensor

KEYS = ("quantization_config", "compression_config", "quantization")
_COMPANIONS = re.compile(
    r"(?P<owner>.+)\.(qzeros|scales|g_idx|qweight_type|weight_scale|weight_scale_inv|weight_scale_2|weight_shape"
    r"|weight_zero_point|weight_g_idx|weight_global_scale|input_scale|input_zero_point"
    r"|input_global_scale|output_scale|activation_scale|act_scale|k_scale|v_scale"
    r"|biases|input_scale_ub|q_scale|q_scale_max|q_groups|q_group_max|q_invperm|q_perm"
    r"|su|sv|suh|svh|mcg|mul1"
    r"|prob_output_scale|SCB|weight_format|weight\.(absmax|quant_map|nested_absmax"
    r"|nested_quant_map|quant_state\.[\w.]+))"
)
_PACKED_WEIGHT = re.compile(r"(?P<module>.+)\.(qweight|q_weight|trellis|weight_packed|weight)")
_BLOCKS = re.compile(r"(?P<parameter>.+_proj)_(blocks|scales)")  # MXFP4 experts of gpt-oss
_WORD_BITS = 32

# A plain tensor's name, and its shape where it is known.
Plain = dict[str, tuple[int, ...] | None]


def is_packed(config: Mapping[str, Any]) -> bool:
    """Whether a config says that its weights are quantised."""
    return any(isinstance(config.get(key), dict) for key in KEYS)


def claims_packing(config: Mapping[str, Any], tensors: Iterable[Tensor]) -> str:
    """The method that a config names where no tensor is packed so; '' where all is well.

    Only for methods whose packing is known: others leave their settings in the config of weights
    that were merged or unpacked again.
    """
    for key in KEYS:
        part = config.get(key)
        method = part.get("quant_method") if isinstance(part, dict) else None
        if method in ("gptq", "awq") and not any(_is_stored_packed(t) for t in tensors):
            return str(method)
    return ""


def plain_tensors(config: Mapping[str, Any], tensors: Iterable[Tensor]) -> Plain:
    """Tensors by the names that they have without quantisation; `companions` are left out."""
    found = list(tensors)
    if not is_packed(config):
        return {tensor.name: tensor.shape for tensor in found}
    settings = next(config[key] for key in KEYS if isinstance(config.get(key), dict))
    modules = {_module(tensor.name) for tensor in found if _is_stored_packed(tensor)}
    plain: Plain = {}
    for tensor in found:
        if (match := _BLOCKS.fullmatch(tensor.name)) is not None:
            plain[match["parameter"]] = None
        elif _companion(tensor.name, modules):
            continue
        elif _module(tensor.name) in modules and tensor.name.endswith(".bias"):
            continue  # GPTQ tools write a bias of zeros where the layer has none
        elif _is_stored_packed(tensor):
            plain[f"{_module(tensor.name)}.weight"] = _unpacked_shape(tensor, settings)
        else:
            plain[tensor.name] = tensor.shape
    return plain


def _module(name: str) -> str:
    match = _PACKED_WEIGHT.fullmatch(name)
    return match["module"] if match else name.rsplit(".", 1)[0]


def _companion(name: str, modules: set[str]) -> bool:
    """A scale or the like of a packed layer, or of the attention that owns packed layers."""
    match = _COMPANIONS.fullmatch(name)
    if match is None:
        return False
    owner = match["owner"]
    return owner in modules or any(module.startswith(f"{owner}.") for module in modules)


def _is_stored_packed(tensor: Tensor) -> bool:
    if tensor.name.endswith((".qweight", ".q_weight", ".trellis", ".weight_packed")):
        return True
    stored = ("U8", "I8", "F8", "F4", "U32")
    return tensor.name.endswith(".weight") and tensor.dtype.startswith(stored)


def _unpacked_shape(tensor: Tensor, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    """(rows, columns) of the plain weight, or None where the packing does not say."""
    bits, method = settings.get("bits", settings.get("w_bit")), settings.get("quant_method")
    if tensor.name.endswith(".weight") and tensor.dtype == "U32":
        each = any(isinstance(value, dict) for value in settings.values())  # bits layer by layer
        if each or type(bits) is not int or bits not in (2, 4, 8) or len(tensor.shape) != 2:
            return None
        return (tensor.shape[0], tensor.shape[1] * _WORD_BITS // bits)
    if tensor.name.endswith(".weight"):
        return tensor.shape if tensor.dtype.startswith(("I8", "F8")) else None
    if type(bits) is not int or bits not in (2, 4, 8) or len(tensor.shape) != 2:
        return None
    rows, columns = tensor.shape
    if method == "gptq" and tensor.name.endswith(".qweight"):
        return (columns, rows * _WORD_BITS // bits)
    if method == "awq" and tensor.name.endswith(".qweight"):
        return (columns * _WORD_BITS // bits, rows)
    return None
