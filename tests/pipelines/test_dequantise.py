from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pipelines.dequantise import (
    ROUNDING,
    CannotDequantise,
    Dtype,
    dequantise,
    known_bounds,
    measured,
)
from pipelines.gguf_facts import read_facts


class Tensors:
    """What `measured` asks of a model."""

    def __init__(self, **tensors: Any) -> None:
        self._tensors = tensors

    def state_dict(self) -> dict[str, Any]:
        return self._tensors


def test_what_is_written_differs_from_the_expansion_by_what_the_record_says(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    """The record's numbers against the file's own blocks and the written tensors."""
    import gguf
    import torch
    from safetensors.torch import load_file

    settings = dequantise(tiny_gguf, tmp_path / "out", "bfloat16", None).settings

    written = load_file(tmp_path / "out/model.safetensors")
    expanded = {
        tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in gguf.GGUFReader(tiny_gguf).tensors
    }
    pairs = [
        (expanded["token_embd.weight"], written["model.embed_tokens.weight"]),
        (expanded["output.weight"], written["lm_head.weight"]),
        *(
            (expanded[f"blk.{layer}.ffn_{ours}.weight"], written[f"model.layers.{layer}.{theirs}"])
            for layer in (0, 1)
            for ours, theirs in (
                ("gate", "mlp.gate_proj.weight"),
                ("up", "mlp.up_proj.weight"),
                ("down", "mlp.down_proj.weight"),
            )
        ),
    ]
    differences = [(kept.float() - exact).abs() for exact, kept in pairs]
    largest = max(float(difference.max()) for difference in differences)
    assert largest <= settings["largest_absolute_difference"]
    assert float(settings["largest_absolute_difference"]) < 0.02
    assert 0 < settings["largest_relative_difference"] <= settings["rounding_relative_bound"]
    assert settings["rounding_relative_bound"] == 2**-8
    assert (settings["expansion_Q8_0"], settings["expansion_F32"]) == ("exact", "exact")


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_measured_rounding_stays_within_the_known_bound(dtype: Dtype) -> None:
    import torch

    torch.manual_seed(1)
    values = torch.randn(100_000) * torch.logspace(-3, 3, 100_000)

    found = measured(Tensors(a=values, steps=torch.arange(3)), dtype)

    assert found["largest_relative_difference"] <= ROUNDING[dtype]
    assert found["largest_relative_difference"] >= 0.9 * ROUNDING[dtype]


def test_differences_are_found_in_every_chunk_and_tensor() -> None:
    import torch

    values = torch.ones(9 * 1024 * 1024)
    values[-1] = 257.0  # bfloat16 has 256 and 258

    found = measured(Tensors(first=torch.ones(3), second=values), "bfloat16")

    assert found["largest_absolute_difference"] == 1.0
    assert found["largest_relative_difference"] == pytest.approx(1 / 257)


def test_a_value_beyond_the_range_of_the_type_is_refused() -> None:
    import torch

    with pytest.raises(CannotDequantise, match="norm holds values beyond the range of float16"):
        measured(Tensors(norm=torch.tensor([70_000.0])), "float16")


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0", "IQ4_NL"])
def test_expansion_that_is_called_exact_is_exact(kind: str) -> None:
    """A block's values are its scale times small integers, with nothing rounded away."""
    import gguf
    import numpy as np

    quantised = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[quantised]
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, (200, size), dtype=np.uint8)
    scales = rng.normal(size=200).astype(np.float16)
    data[:, :2] = scales.view(np.uint8).reshape(200, 2)

    values = gguf.dequantize(data, quantised).reshape(200, block)

    for row, scale in zip(values, scales, strict=True):
        ratios = [Fraction(float(value)) / Fraction(float(scale)) for value in row]
        assert all(ratio.denominator == 1 and abs(ratio) <= 128 for ratio in ratios)
    assert known_bounds("bfloat16", [kind])[f"expansion_{kind}"] == "exact"


def test_expansion_with_a_minimum_is_not_called_exact(tiny_gguf: Path) -> None:
    bounds = known_bounds("float16", [*read_facts(tiny_gguf).tensors, "Q4_K", "IQ2_XS"])

    assert bounds["expansion_Q4_K"] == "to 2^-24 of the larger term"
    assert bounds["expansion_IQ2_XS"] == "as gguf computes it in float32"
    assert bounds["rounding_relative_bound"] == 2**-11
