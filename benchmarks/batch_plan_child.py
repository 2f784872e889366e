"""The process that plans: one plan each, so that its peak of memory is its own."""

from __future__ import annotations

import itertools
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks.batch_plan import Planning
from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.tokens import ModelTokenizer
from pipelines.subprocesses import serve
from pipelines.template import template_sha256

_AT_ONCE = 256  # prompts that the tokenizer alone is given at once, as in a plan


def answer(data: bytes) -> Any:
    """Plan, or encode the same prompts with the tokenizer alone; CPU seconds and peak memory."""
    asked = Planning.model_validate_json(data)
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as folder:
        if asked.how == "tokenizer":
            wall_s, cpu_s, documents = _encode(asked)
        else:
            wall_s, cpu_s, documents = _plan(asked, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"documents": documents, "wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": peak}


def _plan(asked: Planning, folder: Path) -> tuple[float, float, int]:
    job = BatchJob.model_validate(
        {
            "name": "plan",
            "model": "base@production",
            "corpus": {"path": str(asked.corpus)},
            "classification": "public",
            "prompt": {"template": "Which licence family is this?\n\n{{ text }}"},
            "sampling": {"max_tokens": 16},
            "tokens": asked.how,
            "output": str(folder / "out"),
        }
    )
    model = ModelOnDisk(
        name=job.model,
        weights=asked.weights,
        weight_digest="0" * 64,
        template_sha256=template_sha256(asked.weights),
    )
    wall, cpu = time.monotonic(), time.process_time()
    made = plan(job, model)
    return time.monotonic() - wall, time.process_time() - cpu, made.documents


def _encode(asked: Planning) -> tuple[float, float, int]:
    tokenizer = ModelTokenizer(asked.weights)
    question = "Which licence family is this?\n\n"
    wall_s = cpu_s = 0.0
    documents = 0
    with asked.corpus.open("rb") as lines:
        while batch := list(itertools.islice(lines, _AT_ONCE)):
            texts = [question + orjson.loads(line)["text"] for line in batch]
            prompts = [tokenizer.chat([{"role": "user", "content": text}]) for text in texts]
            wall, cpu = time.monotonic(), time.process_time()
            tokenizer.encode(prompts)
            wall_s += time.monotonic() - wall
            cpu_s += time.process_time() - cpu
            documents += len(batch)
    return wall_s, cpu_s, documents


if __name__ == "__main__":
    serve(answer)
