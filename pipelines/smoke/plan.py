"""Whether a model gets a smoke test at all, told from its files alone.

Nothing heavy is imported here and no process started: a model that is not to be loaded costs
nothing. What only transformers can tell (which kind of model an architecture is, and whether it can
run it) is decided by `kinds` in the child process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.canonical import Frozen
from pipelines.gguf_facts import GgufFacts

PIPELINE_INDEX = "model_index.json"  # a diffusers pipeline: folders that each hold one part
GGUF_BYTES_PER_PARAMETER = 2  # blocks are expanded to bfloat16 in memory
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "vocab.txt",
    "vocab.json",
)


class Plan(Frozen):
    """What to load: with a `reason`, nothing; with `gguf`, that file; else the safetensors."""

    reason: str = ""
    gguf: str = ""
    adds_bos: bool | None = None


def plan(weights: Path, ggufs: Mapping[str, GgufFacts], limit_bytes: int) -> Plan:
    """Say what of the folder `weights` the smoke test loads.

    `ggufs` are the facts of its GGUF files by relative path. `limit_bytes` bounds the weights in
    memory. A config.json that does not parse is no reason against: loading it will fail and say so.
    """
    size = sum(path.stat().st_size for path in weights.rglob("*.safetensors"))
    if not size:
        return _plan_gguf(ggufs, limit_bytes)
    if size > limit_bytes:
        return Plan(reason=f"{size} bytes of weights are more than the limit of {limit_bytes}")
    if (weights / PIPELINE_INDEX).is_file():
        name = read_object(weights / PIPELINE_INDEX).get("_class_name", "of no named class")
        return Plan(
            reason=f"a diffusers pipeline ({name}): diffusers is not part of this application, and "
            "its parts make no answer by themselves"
        )
    if not (weights / "config.json").is_file():
        return Plan(reason="no config.json at the root")
    config = read_object(weights / "config.json")
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        return Plan(reason=f"quantised weights ({method or 'no method named'}) need their engine")
    return Plan()


def has_tokenizer(weights: Path) -> bool:
    """Whether the folder holds a vocabulary under one of the names that loaders look for."""
    return any((weights / name).is_file() for name in _TOKENIZERS) or any(
        weights.glob("*.tiktoken")
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or {} for anything else: who loads the file says what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _plan_gguf(ggufs: Mapping[str, GgufFacts], limit_bytes: int) -> Plan:
    """Try the GGUF file with the fewest bits: what is asked of it holds for its copies too.

    Files of one repository are quantisations of one model, or its picture encoder (mmproj, without
    a tokenizer).
    """
    if not ggufs:
        return Plan(reason="no safetensors or GGUF files: only these formats are loaded here")
    if any(facts.split_count > 1 for facts in ggufs.values()):
        return Plan(reason="a GGUF split over several files, which transformers does not read")
    models = {name: facts for name, facts in ggufs.items() if facts.tokenizer_model}
    if not models:
        return Plan(reason="no GGUF file has a tokenizer in it")
    name = min(models, key=lambda key: (models[key].size_bytes, key))
    facts = models[name]
    needed = GGUF_BYTES_PER_PARAMETER * facts.parameters
    if needed > limit_bytes:
        return Plan(
            reason=f"{facts.parameters} parameters are {needed} bytes when they are expanded, more "
            f"than the limit of {limit_bytes}"
        )
    return Plan(gguf=name, adds_bos=facts.adds_bos)
