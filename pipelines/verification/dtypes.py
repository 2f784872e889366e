"""Types of the numbers: what the config says, and what the same tensor has in every other layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.verification.safetensors_header import Tensor

_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
_FLOATS = frozenset(_NAMES.values())
_NUMBER = re.compile(r"\.\d+\.")


def declared_dtype(*configs: Mapping[str, Any]) -> str | None:
    """The float type of the first config that names one ('dtype', or 'torch_dtype' before v5)."""
    for config in configs:
        for key in ("dtype", "torch_dtype"):
            if isinstance(value := config.get(key), str):
                return _NAMES.get(value.removeprefix("torch."))
    return None


def judge_dtypes(declared: str | None, tensors: Iterable[Tensor]) -> Iterator[tuple[str, str]]:
    """(tensor, fact) for types that a tampered header has and an honest checkpoint has not.

    Some tensors are kept in F32 on purpose (norms, routers, state spaces), so only this counts: no
    float matrix has the declared type; half-precision types are mixed among matrices; or one
    tensor of a layer has another type than in most layers.
    """
    floats = []
    for tensor in tensors:
        if tensor.dtype in _FLOATS:
            floats.append(tensor)
        elif tensor.name.endswith((".weight", ".bias")):
            yield tensor.name, f"it holds {tensor.dtype}, and the config tells of no quantisation"
    matrices = [tensor for tensor in floats if len(tensor.shape) > 1]
    sizes: dict[str, int] = {}
    for tensor in matrices:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    if not sizes:
        return
    main = max(sizes, key=lambda dtype: sizes[dtype])
    if declared is not None and declared not in sizes:
        yield matrices[0].name, f"the config says {declared}, its matrices are {main}"
    half = {"F16", "BF16"} & sizes.keys()
    for tensor in floats:
        if len(half) == 2 and tensor.dtype in half and main in half and tensor.dtype != main:
            yield tensor.name, f"it is {tensor.dtype} among {main}"
    yield from _odd_layers(floats)


def _odd_layers(floats: Iterable[Tensor]) -> Iterator[tuple[str, str]]:
    layers: dict[str, dict[str, list[str]]] = {}
    for tensor in floats:
        kind = _NUMBER.sub(".N.", tensor.name)
        layers.setdefault(kind, {}).setdefault(tensor.dtype, []).append(tensor.name)
    for by_dtype in layers.values():
        if len(by_dtype) < 2:
            continue
        usual = max(by_dtype, key=lambda dtype: len(by_dtype[dtype]))
        for dtype, names in by_dtype.items():
            if dtype != usual:
                yield names[0], f"it is {dtype}, and {usual} in other layers"
