"""The smoke test itself: load, try, judge. For run in a child process, since it loads torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.progress import report
from pipelines.smoke.kinds import Kind, kind_of
from pipelines.smoke.loading import Seen, Subject, TransformersCannot, load, load_gguf
from pipelines.smoke.plan import plan, read_object
from pipelines.smoke.result import SmokeResult, not_run, said_by
from pipelines.smoke.senses import try_speech, try_vision_language
from pipelines.smoke.text import PROMPTS, try_causal, try_sequence_to_sequence
from pipelines.smoke.vectors import try_vectors

_TESTS: dict[Kind, Callable[[Subject], Seen]] = {
    "causal": try_causal,
    "sequence-to-sequence": try_sequence_to_sequence,
    "vision-language": try_vision_language,
    "speech-to-text": try_speech,
    "masked": try_vectors,
    "embeddings": try_vectors,
}


def smoke_test(
    weights: Path, *, adds_bos: bool | None, limit_bytes: int, gguf: str = ""
) -> SmokeResult:
    """Load the model in `weights` and try it as what it is (see `kinds`).

    `adds_bos` is what the source says about BOS (None: only the tokenizer's own configuration
    counts). With `gguf`, that file is expanded in memory and tried. A model whose weights are
    larger than `limit_bytes`, or that plain transformers on CPU cannot run, is recorded as not run.
    """
    if gguf:
        return _try_gguf(weights, gguf, adds_bos)
    if reason := plan(weights, {}, limit_bytes).reason:
        return not_run(reason)
    config = read_object(weights / "config.json")
    if not config:
        return SmokeResult(outcome="failed", problems=("config.json is no JSON object",))
    decision = kind_of(config, weights)
    if decision.kind is None:
        return not_run(decision.reason)
    from safetensors import SafetensorError

    report(0, len(PROMPTS), "prompts", "smoke test")
    try:
        subject, loaded = load(weights, decision, adds_bos)
    except ImportError as error:
        return not_run(f"needs a package: {said_by(error, weights)}")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        problem = f"does not load: {said_by(error, weights)}"
        return SmokeResult(outcome="failed", tested=decision.kind, problems=(problem,))
    return _try(decision.kind, subject, loaded)


def _try_gguf(weights: Path, name: str, adds_bos: bool | None) -> SmokeResult:
    report(0, len(PROMPTS), "prompts", "smoke test")
    try:
        subject, loaded = load_gguf(weights, name, adds_bos)
    except TransformersCannot as error:
        return not_run(said_by(error, weights))
    return _try("causal", subject, loaded)


def _try(kind: Kind, subject: Subject, loaded: Seen) -> SmokeResult:
    try:
        seen = _TESTS[kind](subject)
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        seen = Seen(problems=[f"loads, and does not run: {said_by(error, subject.weights)}"])
    problems = (*loaded.problems, *seen.problems)
    return SmokeResult(
        outcome="failed" if problems else "passed",
        tested=kind,
        problems=problems,
        answers=tuple(seen.answers),
        observations=(*loaded.observations, *seen.observations),
    )
