"""The process that loads weights for ingest: GGUF facts, dequantising, smoke test.

One process for all three, because importing transformers costs more than any of them does for a
small model. It has no network: what it loads lies in the folders that it is given.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from pipelines.canonical import Frozen
from pipelines.dequantise import CannotDequantise, Conversion, dequantise
from pipelines.gguf_facts import GgufFacts, UnreadableGguf, read_facts
from pipelines.smoke import SmokeResult, smoke_test
from pipelines.subprocesses import run_module, serve

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Work(Frozen):
    """What the child is to do; `dequantise_to` is None for weights kept as they are."""

    model: Path
    dequantise_to: Path | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    smoke_limit_bytes: int


class Done(Frozen):
    """What it found; with a `problem`, nothing else counts."""

    problem: str = ""
    gguf: dict[str, GgufFacts] = {}
    conversion: Conversion | None = None
    smoke: SmokeResult = SmokeResult(outcome="not run", reason="not reached")


def examine(work: Work) -> Done:
    """Do the work in a child process and return what it found; raises CommandFailed."""
    return Done.model_validate(run_module("pipelines.ingest_child", work, env=_ENVIRONMENT))


def _answer(request: bytes) -> dict[str, object]:
    return _examine(Work.model_validate_json(request)).model_dump(mode="json")


def _examine(work: Work) -> Done:
    files = {path.relative_to(work.model).as_posix(): path for path in work.model.rglob("*.gguf")}
    if files:
        _parse_once()
    name, facts, conversion = "", {}, None
    try:
        for name in sorted(files):
            facts[name] = read_facts(files[name])
        if work.dequantise_to is not None:
            (name,) = files
            conversion = dequantise(files[name], work.dequantise_to, work.dtype, facts[name])
    except (UnreadableGguf, CannotDequantise) as error:
        return Done(problem=f"{name} is not usable: {error}")
    smoke = smoke_test(
        work.dequantise_to or work.model,
        adds_bos=facts[name].adds_bos if conversion is not None else None,
        limit_bytes=work.smoke_limit_bytes,
    )
    return Done(gguf=facts, conversion=conversion, smoke=smoke)


def _parse_once() -> None:
    """Let all in this process share one parse of a file.

    transformers parses it for the configuration, the weights and the tokenizer: some 3 CPU seconds
    each for a vocabulary of 50,000 tokens.
    """
    import gguf

    gguf.GGUFReader = functools.cache(gguf.GGUFReader)


if __name__ == "__main__":
    serve(_answer)
