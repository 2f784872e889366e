"""The process that loads weights for ingest: dequantising and the smoke test.

One process for both, because importing transformers costs more than either does for a small
model. It has no network: what it loads lies in the folders that it is given.
"""

from __future__ import annotations

import functools
from pathlib import Path

from pipelines.canonical import Frozen
from pipelines.dequantise import CannotDequantise, Conversion, Dtype, dequantise
from pipelines.smoke.result import SmokeResult, not_run
from pipelines.smoke.run import smoke_test
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
    try_gguf: str = ""  # with a name, this file is kept as it is and tried
    out: Path
    dtype: Dtype = "bfloat16"
    context_length: int | None = None
    adds_bos: bool | None = None
    smoke_limit_bytes: int


class Done(Frozen):
    """What it did; with a `problem`, nothing else counts."""

    problem: str = ""
    conversion: Conversion | None = None
    smoke: SmokeResult = not_run("not reached")


def load_and_try(work: Work) -> Done:
    """Do the work in a child process and return what came of it; raises CommandFailed."""
    return Done.model_validate(run_module("pipelines.ingest_child", work, env=_ENVIRONMENT))


def _answer(request: bytes) -> dict[str, object]:
    return work_here(Work.model_validate_json(request)).model_dump(mode="json")


def work_here(work: Work) -> Done:
    """Do the work in this process: loads torch, and memory is not given back."""
    conversion = None
    if work.gguf or work.try_gguf:
        _parse_once()
    if work.gguf:
        try:
            conversion = dequantise(
                work.model / work.gguf, work.out, work.dtype, work.context_length
            )
        except CannotDequantise as error:
            return Done(problem=f"{work.gguf} cannot be dequantised: {error}")
    smoke = smoke_test(
        work.out,
        adds_bos=work.adds_bos,
        limit_bytes=work.smoke_limit_bytes,
        gguf=work.try_gguf,
    )
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
