"""Loading a model for its smoke test: never its code, never a pickle, never the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.smoke.kinds import Decision
from pipelines.smoke.plan import has_tokenizer
from pipelines.smoke.result import SmokeAnswer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OFFLINE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


@dataclass
class Seen:
    """What a test saw, before it is judged as a whole."""

    answers: list[SmokeAnswer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """A loaded model, ready to be tried."""

    weights: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    adds_bos: bool | None = None


class TransformersCannot(Exception):
    """A GGUF file that transformers does not read, which says nothing against the file."""


def load(weights: Path, decision: Decision, adds_bos: bool | None) -> tuple[Subject, Seen]:
    """Load the safetensors of a folder; tensors that are missing become a problem.

    Raises what transformers raises for files that do not fit together: OSError, ValueError,
    KeyError, RuntimeError, SafetensorError.
    """
    import transformers

    model, info = getattr(transformers, decision.auto_class).from_pretrained(
        weights,
        dtype="auto",
        use_safetensors=True,
        attn_implementation="eager",  # never an implementation that the config names
        output_loading_info=True,
        **_OFFLINE,
    )
    missing = sorted(map(str, info["missing_keys"]))
    if decision.kind == "embeddings":  # a sentence's vector is pooled from the hidden states
        missing = [name for name in missing if "pooler" not in name.split(".")]
    seen = Seen()
    if missing:
        seen.problems.append(f"{len(missing)} tensors are missing, {missing[0]} for one")
    if decision.architecture not in ("", loaded := type(model).__name__):
        seen.problems.append(
            f"config.json names {decision.architecture}, and its model_type loads {loaded}"
        )
    return Subject(weights, model.eval(), load_tokenizer(weights, decision), adds_bos), seen


def load_tokenizer(weights: Path, decision: Decision) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer; None for speech without one, whose tokens are then not spelled."""
    from transformers import AutoTokenizer

    if decision.kind == "speech-to-text" and not has_tokenizer(weights):
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(weights, **_OFFLINE)
    return tokenizer


def load_gguf(weights: Path, name: str, adds_bos: bool | None) -> tuple[Subject, Seen]:
    """Expand a GGUF file to bfloat16 in memory; nothing is written.

    Raises TransformersCannot where transformers has no reading of the file: engines for GGUF may.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    path = weights / name
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            attn_implementation="eager",
            output_loading_info=True,
            **_OFFLINE,
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, **_OFFLINE)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise TransformersCannot(f"transformers does not read {name}: {error}") from error
    if missing := sorted(map(str, info["missing_keys"])):
        fact = f"transformers finds no tensor for {missing[0]} in {name}"
        raise TransformersCannot(fact)
    observed = f"{name} was expanded to bfloat16 in memory for this test, and kept as it is"
    return Subject(path.parent, model.eval(), tokenizer, adds_bos), Seen(observations=[observed])
