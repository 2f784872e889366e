"""The smoke test at the door: does the model load, and do its first answers make sense?

It catches what formats and digests cannot: missing tensors that a loader fills with random
numbers, a tokenizer that lost its BOS token on a conversion, NaN weights. It says nothing of
quality. Chat templates are not rendered here: they are the publisher's code, and verification
comes later. No code from the model's folder is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipelines.canonical import Frozen
from pipelines.progress import report

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPTS = (
    "The capital of France is",
    "In the morning she opened the window and",
    "def add(a, b):\n    return",
)
NEW_TOKENS = 24
# A cycle of at most this many tokens that goes on for this long is not language.
LONGEST_CYCLE = 4
CYCLE_TOKENS = 16


class SmokeAnswer(Frozen):
    """The greedy continuation of one prompt."""

    prompt: str
    completion: str
    tokens: int
    finite: bool = Field(description="whether all logits were finite")
    cycle: int = Field(description="length of a repeated cycle of tokens, 0 if there is none")


class SmokeResult(Frozen):
    """What the smoke test saw; deterministic on one machine and environment."""

    kind: Literal["smoke"] = "smoke"
    outcome: Literal["passed", "failed", "not run"]
    reason: str = Field(default="", description="why it was not run")
    problems: tuple[str, ...] = ()
    answers: tuple[SmokeAnswer, ...] = ()
    weight_digest: str = ""


def smoke_test(weights: Path, *, adds_bos: bool | None, limit_bytes: int) -> SmokeResult:
    """Load the model in `weights` and continue a few prompts greedily.

    `adds_bos` is what the source says about BOS (None: only the tokenizer's own configuration
    counts). A model that is larger than `limit_bytes`, or that plain transformers on CPU cannot
    run as text in and text out, is recorded as not run. For run in a child process.
    """
    if reason := _not_run_because(weights, limit_bytes):
        return SmokeResult(outcome="not run", reason=reason)
    from safetensors import SafetensorError

    report(0, len(PROMPTS), "prompts", "smoke test")
    try:
        model, tokenizer, problems = _load(weights)
    except ImportError as error:
        return SmokeResult(outcome="not run", reason=f"needs a package: {_first_line(error)}")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        return SmokeResult(outcome="failed", problems=(f"does not load: {_first_line(error)}",))
    problems += _token_problems(weights, model, tokenizer, adds_bos)
    answers: list[SmokeAnswer] = []
    for count, prompt in enumerate(PROMPTS, start=1):
        answers.append(_continue(model, tokenizer, prompt))
        report(count, len(PROMPTS), "prompts", "smoke test")
    problems += _answer_problems(answers)
    return SmokeResult(
        outcome="failed" if problems else "passed",
        problems=tuple(problems),
        answers=tuple(answers),
    )


def cycle_length(tokens: Sequence[int]) -> int:
    """The shortest cycle (1 to LONGEST_CYCLE) that fills CYCLE_TOKENS tokens in a row, or 0."""
    for period in range(1, LONGEST_CYCLE + 1):
        run = period
        for before, after in zip(tokens, tokens[period:], strict=False):
            run = run + 1 if before == after else period
            if run >= CYCLE_TOKENS:
                return period
    return 0


def _not_run_because(weights: Path, limit_bytes: int) -> str:
    size = sum(path.stat().st_size for path in weights.rglob("*.safetensors"))
    if size > limit_bytes:
        return f"{size} bytes of weights are more than the limit of {limit_bytes}"
    if not size:
        return "no safetensors files: only this format is loaded here"
    path = weights / "config.json"
    if not path.is_file():
        return "no config.json at the root"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return ""  # loading it will fail, and say so
    if not isinstance(config, dict):
        return ""
    if "quantization_config" in config:
        return "quantised weights"
    if not any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ()):
        return f"not a causal language model ({config.get('architectures')})"
    if not any((weights / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return "no tokenizer"
    return ""


def _load(weights: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(
        weights,
        dtype="auto",
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        attn_implementation="eager",  # never an implementation that the config names
        output_loading_info=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        weights, trust_remote_code=False, local_files_only=True
    )
    problems = []
    if missing := sorted(map(str, info["missing_keys"])):
        problems.append(f"{len(missing)} tensors are missing, {missing[0]} for one")
    return model.eval(), tokenizer, problems


def _token_problems(
    weights: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adds_bos: bool | None,
) -> list[str]:
    """Compare the tokenizer with what config, generation config and source say of BOS and EOS."""
    config: Any = model.config
    problems = []
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        problems.append(f"the tokenizer has {len(tokenizer)} tokens, the embedding {rows} rows")
    stated = {*_ids(config.eos_token_id), *_ids(model.generation_config.eos_token_id)}
    eos: Any = tokenizer.eos_token_id
    if stated and eos is not None and eos not in stated:
        problems.append(f"the tokenizer ends with token {eos}, the config with {sorted(stated)}")
    if adds_bos is None:
        path = weights / "tokenizer_config.json"
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        adds_bos = said.get("add_bos_token")
    bos = _ids(config.bos_token_id) or _ids(tokenizer.bos_token_id)
    starts = tokenizer.encode("A sentence.")[:1]
    if adds_bos is True and bos and starts != bos:
        problems.append(
            f"text must start with BOS (token {bos[0]}), and the tokenizer does not add it"
        )
    if adds_bos is False and bos and starts == bos:
        problems.append(f"the tokenizer adds BOS (token {bos[0]}), and the source says it must not")
    return problems


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [int(value)]


def _continue(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str
) -> SmokeAnswer:
    """Greedy decoding, written out: a generation config with penalties must not interfere."""
    import torch

    ids = torch.tensor([tokenizer.encode(prompt)])
    stops = {*_ids(tokenizer.eos_token_id), *_ids(model.generation_config.eos_token_id)}
    made: list[int] = []
    finite, past = True, None
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            output = model(input_ids=ids, past_key_values=past, use_cache=True)
            finite = finite and bool(torch.isfinite(output.logits).all())
            token = int(output.logits[0, -1].argmax())
            if token in stops or not finite:
                break
            made.append(token)
            ids, past = torch.tensor([[token]]), output.past_key_values
    return SmokeAnswer(
        prompt=prompt,
        completion=str(tokenizer.decode(made)),
        tokens=len(made),
        finite=finite,
        cycle=cycle_length(made),
    )


def _answer_problems(answers: Sequence[SmokeAnswer]) -> list[str]:
    problems = [
        f"logits are not finite after {answer.prompt!r}" for answer in answers if not answer.finite
    ]
    cycles = [answer for answer in answers if answer.cycle]
    if 2 * len(cycles) > len(answers):  # a small sound model may fall into one by itself
        problems.append(
            f"{len(cycles)} of {len(answers)} answers repeat themselves without end, "
            f"{cycles[0].prompt!r} for one: {cycles[0].completion[-60:]!r}"
        )
    return problems


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
