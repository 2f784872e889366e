"""Tensors beside each other: numbers that no training leaves behind.

A matrix of one constant, a tensor whose numbers are millions of times those of all others, the same
matrix in two layers, a vector of zeros where every other layer has numbers.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_RATIO = 2.0**17  # honest outliers stay below a thousand times the usual peak
MIN_RATIO = 2.0**-80  # weights that decay unused stay far above it
SAME_VALUE_FROM = 64  # a smaller matrix may well hold one value
_NUMBER = re.compile(r"\.\d+\.")
# Factors and their like start as one value, and may stay there.
_FACTORS = re.compile(
    r"norm|(^|[._])ln([._\d]|$)|bias|scale|gamma|beta|gate$|A_log|dt_|(^|\.)D$|zero_point|absmax"
    r"|quant_map|position|mask|layer_scalar"
)
# Tensors that libraries set to zero before training (LoRA's B, SigLIP's projection in Gemma 3).
STARTS_AT_ZERO = re.compile(
    r"lora_B|lora_embedding_A|mm_input_projection_weight|relative_position_bias_table|mask_token"
    r"|cls_token|position_embedding|latents"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one pass learnt of a tensor: `peak` is the largest magnitude, 0 where none is known."""

    name: str
    shape: tuple[int, ...]
    peak: float
    nonzero: bool
    constant: bool
    print: bytes = b""  # a digest of all bytes where another tensor begins and ends the same way

    @property
    def axes(self) -> list[int]:
        """Axes that are not trivial."""
        return [size for size in self.shape if size != 1]

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix of weights, no table of factors."""
        return len(self.axes) > 1 and not _FACTORS.search(self.name)

    @property
    def is_norm(self) -> bool:
        """Whether it is the vector of a normalisation."""
        named = "norm" in self.name.lower() and self.name.endswith("weight")
        return len(self.axes) == 1 and named


def judge_seen(seen: Iterable[Seen]) -> Iterator[tuple[str, str, str]]:
    """(rule, tensor, fact) for all tensors of one model."""
    tensors = list(seen)
    matrices = [tensor for tensor in tensors if tensor.is_matrix]
    for tensor in matrices:
        elements = tensor.axes[0] * tensor.axes[1]
        if tensor.constant and tensor.nonzero and elements >= SAME_VALUE_FROM:
            yield "weights.constant", tensor.name, "one value fills it"
    yield from _outliers(matrices)
    yield from _outliers([t for t in tensors if t.is_norm and t.constant])
    yield from _dead_vectors(tensors)
    yield from _copies(matrices)


def _outliers(matrices: list[Seen]) -> Iterator[tuple[str, str, str]]:
    peaks = [tensor.peak for tensor in matrices if 0 < tensor.peak < math.inf]
    if len(peaks) < 3:
        return
    usual = statistics.median(peaks)
    for tensor in matrices:
        if tensor.nonzero and 0 < tensor.peak < MIN_RATIO * usual:
            fact = f"its largest number is {tensor.peak:.3g}, in others of its kind {usual:.3g}"
            yield "weights.outlier", tensor.name, fact
        if tensor.peak > MAX_RATIO * usual:
            fact = f"its largest number is {tensor.peak:.3g}, in others of its kind {usual:.3g}"
            yield "weights.outlier", tensor.name, fact


def _dead_vectors(tensors: list[Seen]) -> Iterator[tuple[str, str, str]]:
    """A norm of zeros silences its layer, unless this model's norms are all offsets from one."""
    weights = [t for t in tensors if t.is_norm]
    alive = sum(tensor.nonzero for tensor in weights)
    for tensor in weights:
        if not tensor.nonzero and alive > len(weights) / 2:
            yield "weights.all-zero", tensor.name, "nothing but zeros, and other norms have numbers"


def _copies(matrices: list[Seen]) -> Iterator[tuple[str, str, str]]:
    found: dict[tuple[str, bytes], str] = {}
    for tensor in matrices:
        if not tensor.print or tensor.constant:
            continue
        kind = _NUMBER.sub(".N.", tensor.name)
        first = found.setdefault((kind, tensor.print), tensor.name)
        if first != tensor.name:
            yield "weights.copied", tensor.name, f"it is {first!r}, byte for byte"
