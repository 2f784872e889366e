"""The process that loads weights for ingest: dequantising and the smoke test.

One process for both, because importing transformers costs more than either does for a small
model. It has no network: what it loads lies in the folders that it is given.
"""

from __future__ import annotations

import functools
from pathlib import Path

from pipelines.canonical import Frozen
from pipelines.dequantise import CannotDequantise, Conversion, Dtype, dequantise
from pipelines.smoke import SmokeResult, smoke_test
from pipelines.subprocesses import run_module, serve

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Steps of one token are too small to share: on a busy machine, threads that spin while they
    # wait for each other cost twenty times the CPU. One thread also makes sums repeatable.
    "OMP_NUM_THREADS": "1",
}


class Work(Frozen):
    """What the child is to do."""

    model: Path
    gguf: str = ""  # with a name, this file is dequantised into `out`
    out: Path
    dtype: Dtype = "bfloat16"
    context_length: int | None = None
    adds_bos: bool | None = None
    smoke_limit_bytes: int


class Done(Frozen):
    """What it did; with a `problem`, nothing else counts."""

    problem: str = ""
    conversion: Conversion | None = None
    smoke: SmokeResult = SmokeResult(outcome="not run", reason="not reached")


def load_and_try(work: Work) -> Done:
    """Do the work in a child process and return what came of it; raises CommandFailed."""
    return Done.model_validate(run_module("pipelines.ingest_child", work, env=_ENVIRONMENT))


def _answer(request: bytes) -> dict[str, object]:
    return _do(Work.model_validate_json(request)).model_dump(mode="json")


def _do(work: Work) -> Done:
    conversion = None
    if work.gguf:
        _parse_once()
        try:
            conversion = dequantise(
                work.model / work.gguf, work.out, work.dtype, work.context_length
            )
        except CannotDequantise as error:
            return Done(problem=f"{work.gguf} cannot be dequantised: {error}")
    smoke = smoke_test(work.out, adds_bos=work.adds_bos, limit_bytes=work.smoke_limit_bytes)
    return Done(conversion=conversion, smoke=smoke)


def _parse_once() -> None:
    """Let all in this process share one parse of the file.

    transformers parses it for the configuration, the weights and the tokenizer: some 3 CPU seconds
    each for a vocabulary of 50,000 tokens.
    """
    import gguf

    gguf.GGUFReader = functools.cache(gguf.GGUFReader)


if __name__ == "__main__":
    serve(_answer)
