"""GGUF in, dequantised safetensors out: a model that training and evaluation can load.

The result is a real model and not bit-equal to the publisher's weights: it was rounded to blocks
of few bits once. Whoever records it must say so, with the digest of the file that it came from.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pipelines.canonical import Frozen
from pipelines.progress import report

Dtype = Literal["bfloat16", "float16", "float32"]

_TOOLS = ("gguf", "safetensors", "tokenizers", "torch", "transformers")
# Facts about the machine that saved the tokenizer, not about the tokenizer.
_LOCAL_KEYS = ("is_local", "local_files_only", "name_or_path")


class Conversion(Frozen):
    """How a GGUF file was made into safetensors: what a Derivation records."""

    settings: dict[str, str | int | float | bool]
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

    Blocks are expanded in float32 and then rounded to `dtype` (bfloat16: relative error at most
    2^-8). `context_length` in tokens becomes the tokenizer's limit. The same file and tools give
    the same bytes. Peak memory is about 8 bytes a parameter plus the file. Raises
    CannotDequantise. For run in a child process: it loads torch.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    what = f"dequantise {gguf.name}"
    report(0, 3, "steps", what)
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
    report(1, 3, "steps", what)
    model.to(getattr(torch, dtype)).save_pretrained(out)
    report(2, 3, "steps", what)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise CannotDequantise(f"transformers cannot read its tokenizer ({error})") from error
    settings: dict[str, str | int | float | bool] = {"dtype": dtype}
    if context_length:  # transformers leaves 1e30 here, which switches truncation off
        tokenizer.model_max_length = settings["model_max_length"] = context_length
    tokenizer.save_pretrained(out)
    _settle(out)
    report(3, 3, "steps", what)
    return Conversion(settings=settings, tools={tool: version(tool) for tool in _TOOLS})


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
