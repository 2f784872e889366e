"""GGUF in, dequantised safetensors out: a model that training and evaluation can load.

The result is a real model and not bit-equal to the publisher's weights: it was rounded to blocks
of few bits once. Whoever records it must say so, with the digest of the file that it came from.

How far what is written may be from what the file says is known. Expanding a block in float32 is
exact where a value is a scale times a small integer: at most 11 significant bits (a float16 scale)
times at most 12 (integer and scale of the sub-block) fit into float32's 24. Formats that add a
minimum round once, by at most 2^-24 of the larger term. Then each value is rounded to the nearest
number of the target type: by at most 2^-8 of itself in bfloat16 and 2^-11 in float16 (half a unit
in the last place of 8 and 11 significant bits), below the type's normal range by half its smallest
step. The largest differences are also measured, over every tensor that is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pipelines.canonical import Frozen
from pipelines.gguf_facts import read_facts
from pipelines.progress import report

Dtype = Literal["bfloat16", "float16", "float32"]
Settings = dict[str, str | int | float | bool]

ROUNDING: dict[Dtype, float] = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 0.0}
_EXACT = (
    "F32", "F16", "BF16", "Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K", "IQ4_NL", "TQ1_0", "TQ2_0",
    "MXFP4",
)  # fmt: skip
_WITH_MINIMUM = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")
_CHUNK = 4 * 1024 * 1024  # values compared at a time

_TOOLS = ("gguf", "safetensors", "tokenizers", "torch", "transformers")
# Facts about the machine that saved the tokenizer, not about the tokenizer.
_LOCAL_KEYS = ("is_local", "local_files_only", "name_or_path")


class Conversion(Frozen):
    """How a GGUF file was made into safetensors: what a Derivation records."""

    settings: Settings
    tools: dict[str, str]


class CannotDequantise(Exception):
    """A GGUF file that transformers cannot turn into a whole model."""


def dequantise(
    gguf: Path,
    out: Path,
    dtype: Dtype,
    context_length: int | None,
) -> Conversion:
    """Write config, weights in `dtype`, tokenizer and chat template to the new folder `out`.

    Blocks are expanded in float32 and then rounded to `dtype`; the error is bounded and measured
    in the settings. `context_length` in tokens becomes the tokenizer's limit. The same file and
    tools give the same bytes. Peak memory is about 8 bytes a parameter plus the file. Raises
    CannotDequantise. For run in a child process: it loads torch.
    """
    import torch
    from transformers import AutoTokenizer

    what = f"dequantise {gguf.name}"
    report(0, 3, "steps", what)
    model = _expand(gguf)
    report(1, 3, "steps", what)
    bounds = known_bounds(dtype, read_facts(gguf).tensors)
    settings: Settings = {"dtype": dtype, **bounds, **measured(model, dtype)}
    model.to(getattr(torch, dtype)).save_pretrained(out)
    report(2, 3, "steps", what)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise CannotDequantise(f"transformers cannot read its tokenizer ({error})") from error
    if context_length:  # transformers leaves 1e30 here, which switches truncation off
        tokenizer.model_max_length = settings["model_max_length"] = context_length
    tokenizer.save_pretrained(out)
    _settle(out)
    report(3, 3, "steps", what)
    return Conversion(settings=settings, tools={tool: version(tool) for tool in _TOOLS})


def _expand(gguf: Path) -> Any:
    """The whole model in float32."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        # `dequantize=True`: without it the loaded model keeps its blocks and cannot be saved.
        model, info = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise CannotDequantise(f"transformers cannot read it ({error})") from error
    for problem in ("missing_keys", "mismatched_keys"):
        if absent := sorted(map(str, info[problem])):
            raise CannotDequantise(f"{problem.replace('_', ' ')}: {', '.join(absent[:5])}")
    return model


def known_bounds(dtype: Dtype, tensor_types: Iterable[str]) -> Settings:
    """What is known beforehand: how each tensor type of the file expands, and the rounding."""
    known: Settings = {f"expansion_{kind}": _expansion(kind) for kind in tensor_types}
    return {**known, "rounding_relative_bound": ROUNDING[dtype]}


def measured(model: Any, dtype: Dtype) -> Settings:
    """The largest differences between a model in float32 and its tensors rounded to `dtype`.

    Compares a chunk at a time, so that memory does not grow. The relative difference is taken
    where the value is a normal number of `dtype`. Raises CannotDequantise for a value beyond the
    type's range: it would be written as infinity.
    """
    import torch

    target: torch.dtype = getattr(torch, dtype)
    limits = torch.finfo(target)
    absolute = relative = 0.0
    with torch.inference_mode():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            for chunk in tensor.detach().reshape(-1).split(_CHUNK):
                size = chunk.abs()
                if float(size.max()) > limits.max:
                    raise CannotDequantise(f"{name} holds values beyond the range of {dtype}")
                difference = (chunk.to(target).float() - chunk).abs()
                absolute = max(absolute, float(difference.max()))
                ratio = torch.where(size < limits.tiny, 0.0, difference / size)
                relative = max(relative, float(ratio.max()))
    return {
        "largest_absolute_difference": absolute,
        "largest_relative_difference": relative,
    }


def _expansion(kind: str) -> str:
    if kind in _EXACT:
        return "exact"
    if kind in _WITH_MINIMUM:
        return "to 2^-24 of the larger term"
    return "as gguf computes it in float32"


def _settle(out: Path) -> None:
    """Make what was written depend on the model only, and readable like any other file."""
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in _LOCAL_KEYS:
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    for file in out.rglob("*"):  # safetensors writes its files with mode 0600
        if file.is_file():
            file.chmod(0o644)
