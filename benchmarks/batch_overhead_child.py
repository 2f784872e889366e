"""The process in which `batch_overhead` compares: one engine, used from both sides in turn."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.batch_overhead import Comparison, Turn
from pipelines.batch.corpus import read_documents
from pipelines.batch.engine import Engine, EngineConfig
from pipelines.batch.job import BatchJob, Corpus, EngineSettings, Limits, Prompt, Sampling
from pipelines.batch.layout import journal_folder
from pipelines.batch.manifest import count, write_manifest
from pipelines.batch.plan import plan
from pipelines.batch.prompt import PromptBuilder
from pipelines.batch.records import ModelOnDisk, WorkerRequest
from pipelines.batch.report import write_report
from pipelines.batch.store import open_store
from pipelines.batch.tokens import ModelTokenizer
from pipelines.batch.vllm_engine import VllmEngine, engine_arguments, environment, is_cpu_build
from pipelines.batch.worker import work
from pipelines.progress import report
from pipelines.subprocesses import serve
from pipelines.template import template_sha256

WORDS_A_DOCUMENT = 46


class KeptOpen(VllmEngine):
    """The job's view of the shared engine, which outlives the job."""

    def close(self) -> None:
        pass


def compare(data: bytes) -> Any:
    """Take the turns and return what each took."""
    asked = Comparison.model_validate_json(data)
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as folder:
        corpus = write_corpus(Path(folder, "corpus"), asked.documents)
        job = make_job(corpus, Path(folder))
        model = ModelOnDisk(
            name="benchmark",
            weights=asked.weights,
            weight_digest="0" * 64,
            template_sha256=template_sha256(asked.weights),
        )
        prompts = token_ids(job, asked.weights)
        config = EngineConfig(
            weights=asked.weights,
            sampling=job.sampling,
            output_schema=None,
            max_model_len=1024,
            settings=job.engine,
        )
        os.environ.update(environment(config, is_cpu_build()))
        from vllm import LLM

        llm = LLM(**engine_arguments(config, is_cpu_build()))
        generate(llm, prompts[:16], job.sampling)  # the first steps allocate
        turns = []
        for number, side in enumerate(asked.turns):
            report(number, len(asked.turns), "turns", "job against generate")
            llm.reset_prefix_cache()
            wall, cpu = time.monotonic(), time.process_time()
            if side == "generate":
                tokens = generate(llm, prompts, job.sampling)
            else:
                placed = job.model_copy(update={"output": f"{folder}/out-{number}"})
                tokens = whole_job(placed, model, KeptOpen(llm.llm_engine, config))
            wall, cpu = time.monotonic() - wall, time.process_time() - cpu
            turns.append(Turn(side=side, wall_s=wall, cpu_s=cpu, completion_tokens=tokens))
    return [turn.model_dump(mode="json") for turn in turns]


def generate(llm: Any, prompts: list[list[int]], sampling: Sampling) -> int:
    """vLLM's own call; the number of tokens that it wrote."""
    from vllm import SamplingParams

    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids in prompts],
        SamplingParams(temperature=sampling.temperature, max_tokens=sampling.max_tokens),
        use_tqdm=False,
    )
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def whole_job(job: BatchJob, model: ModelOnDisk, engine: Engine) -> int:
    """Everything that `run_batch` does, in this process; the number of tokens written."""
    planned = plan(job, model)
    journal = journal_folder(job.output, planned.job_id)
    work(WorkerRequest(job=job, model=model, journal=journal), lambda _: engine)
    store = open_store(job.output)
    manifest = count(planned, store, job.limits.max_error_rate)
    write_report(planned, manifest, store)
    write_manifest(manifest, store)
    return manifest.tokens.completion


def make_job(corpus: Path, folder: Path) -> BatchJob:
    """A job of short answers in text, with many shards, so that borders are crossed."""
    return BatchJob(
        name="overhead",
        model="benchmark",
        corpus=Corpus(path=corpus),
        classification="public",
        prompt=Prompt(template="Continue this list of words:\n{{ text }}"),
        sampling=Sampling(max_tokens=16, attempts=1),
        engine=EngineSettings(max_in_flight=512, max_model_len=1024),
        shard_rows=64,
        limits=Limits(max_error_rate=0.0),
        output=str(folder / "out"),
    )


def token_ids(job: BatchJob, weights: Path) -> list[list[int]]:
    """The prompts of the job, for the reference."""
    tokenizer = ModelTokenizer(weights)
    builder = PromptBuilder(job.prompt, tokenizer)
    documents = read_documents(job.corpus, Counter())
    return tokenizer.encode(
        [builder.build(document, document.text, 0, 1) for document in documents]
    )


def write_corpus(folder: Path, documents: int) -> Path:
    """Documents of random words, different from their first word on."""
    folder.mkdir()
    words = [f"{a}{b}" for a in _HEADS for b in _TAILS]
    for number in range(documents):
        chosen = random.Random(number).choices(words, k=WORDS_A_DOCUMENT)
        (folder / f"{number:06}.txt").write_text(" ".join(chosen) + "\n")
    return folder


_HEADS = ("sun", "rain", "wind", "snow", "moon", "sand", "wood", "fire", "field", "night")
_TAILS = ("light", "fall", "mill", "house", "storm", "stone", "bird", "side", "craft", "work")


if __name__ == "__main__":
    serve(compare)
