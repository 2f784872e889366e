"""The process of the batch benchmarks: one engine, and ways of using it that take turns."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.batch_overhead import Comparison, Turn
from pipelines.batch.corpus import read_documents
from pipelines.batch.engine import Engine, EngineConfig, Request
from pipelines.batch.job import BatchJob, Corpus, Limits, Prompt
from pipelines.batch.layout import journal_folder
from pipelines.batch.manifest import count, write_manifest
from pipelines.batch.plan import plan
from pipelines.batch.prompt import PromptBuilder
from pipelines.batch.records import ModelOnDisk, WorkerReport, WorkerRequest
from pipelines.batch.report import write_report
from pipelines.batch.settings import Sampling
from pipelines.batch.store import open_store
from pipelines.batch.tokens import ModelTokenizer
from pipelines.batch.transformers_engine import TransformersEngine, start_transformers
from pipelines.batch.vllm_engine import VllmEngine, engine_arguments, environment, is_cpu_build
from pipelines.batch.worker import work
from pipelines.progress import report
from pipelines.subprocesses import serve
from pipelines.template import template_sha256

WORDS_A_DOCUMENT = 46
WAVE = 16  # requests
IN_FLIGHT = 512


class Bench(NamedTuple):
    """What every turn works on."""

    job: BatchJob
    model: ModelOnDisk
    config: EngineConfig
    prompts: list[list[int]]
    lengths: list[int]  # of the answers, in tokens


class Ran(NamedTuple):
    """What one turn wrote, and how busy it kept the engine where that is known."""

    tokens: int
    occupancy: float = 0.0


class KeptOpen(VllmEngine):
    """The job's view of the shared engine, which outlives the job."""

    def close(self) -> None:
        pass


class KeptLoaded(TransformersEngine):
    """The same for transformers."""

    def close(self) -> None:
        pass


def compare(data: bytes) -> Any:
    """Take the turns and return what each took."""
    asked = Comparison.model_validate_json(data)
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as folder:
        bench = prepare(asked, Path(folder))
        sides = Vllm(bench) if asked.backend == "vllm" else Transformers(bench)
        sides.take("warm-up", bench.job)  # the first steps allocate
        turns = []
        for number, side in enumerate(asked.turns):
            report(number, len(asked.turns), "turns", "batch benchmark")
            job = bench.job.model_copy(update={"output": f"{folder}/out-{number}"})
            sides.forget()
            wall, cpu = time.monotonic(), time.process_time()
            ran = sides.take(side, job)
            wall, cpu = time.monotonic() - wall, time.process_time() - cpu
            turns.append(
                Turn(
                    side=side,
                    wall_s=wall,
                    cpu_s=cpu,
                    completion_tokens=ran.tokens,
                    occupancy=ran.occupancy,
                )
            )
    return [turn.model_dump(mode="json") for turn in turns]


def prepare(asked: Comparison, folder: Path) -> Bench:
    """Corpus, job, prompts and answer lengths; the same for the same request."""
    corpus = write_corpus(folder / "corpus", asked.documents)
    tokens = asked.answer_tokens
    job = BatchJob(
        name="benchmark",
        model="benchmark",
        corpus=Corpus(path=str(corpus)),
        classification="public",
        prompt=Prompt(
            template="Continue this list of words:\n{{ text }}", system=asked.system or None
        ),
        sampling=Sampling(max_tokens=tokens, min_tokens=tokens if asked.exact else 0, attempts=1),
        engine=asked.settings,
        shard_rows=64,  # many shards, so that borders are crossed
        limits=Limits(max_error_rate=0.0),
        output=str(folder / "out"),
    )
    model = ModelOnDisk(
        name="benchmark",
        weights=asked.weights,
        weight_digest="0" * 64,
        template_sha256=template_sha256(asked.weights),
    )
    config = EngineConfig(
        weights=asked.weights,
        sampling=job.sampling,
        output_schema=None,
        max_model_len=asked.settings.max_model_len or 1024,
        settings=job.engine,
    )
    prompts = token_ids(job, asked.weights)
    drawn = random.Random(0)
    lengths = [drawn.randint(8, 120) if asked.varied else tokens for _ in prompts]
    return Bench(job, model, config, prompts, lengths)


class Vllm:
    """Ways of using one vLLM engine."""

    def __init__(self, bench: Bench) -> None:
        on_cpu = is_cpu_build()
        os.environ.update(environment(bench.config, on_cpu))
        from vllm import LLM

        self._bench = bench
        self._llm = LLM(**engine_arguments(bench.config, on_cpu))

    def forget(self) -> None:
        """Empty the prefix cache, so that no side has what another computed."""
        self._llm.reset_prefix_cache()

    def take(self, side: str, job: BatchJob) -> Ran:
        """One turn over all prompts (the warm-up: over a few)."""
        bench = self._bench
        if side == "job":
            return whole_job(job, bench.model, KeptOpen(self._llm.llm_engine, bench.config))
        if side == "continuous":
            return Ran(self._continuous(KeptOpen(self._llm.llm_engine, bench.config)))
        size = WAVE if side == "waves" else len(bench.prompts)
        last = WAVE if side == "warm-up" else len(bench.prompts)
        tokens = 0
        for first in range(0, last, size):
            tokens += self._generate(first, min(first + size, last))
        return Ran(tokens)

    def _generate(self, first: int, last: int) -> int:
        """vLLM's own call; the number of tokens that it wrote."""
        from vllm import SamplingParams

        sampling, exact = self._bench.config.sampling, self._bench.config.sampling.min_tokens
        outputs = self._llm.generate(
            [{"prompt_token_ids": ids} for ids in self._bench.prompts[first:last]],
            [
                SamplingParams(
                    temperature=sampling.temperature,
                    max_tokens=length,
                    min_tokens=length if exact else 0,
                )
                for length in self._bench.lengths[first:last]
            ],
            use_tqdm=False,
        )
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def _continuous(self, engine: Engine) -> int:
        """As a worker feeds it, with an answer length for each request."""
        waiting = list(enumerate(zip(self._bench.prompts, self._bench.lengths, strict=True)))
        tokens = in_flight = 0
        while waiting or in_flight:
            while waiting and in_flight < IN_FLIGHT:
                row, (ids, length) = waiting.pop(0)
                own = Sampling(max_tokens=length, min_tokens=length, attempts=1)
                engine.add(Request(row, 1, ids, own))
                in_flight += 1
            ended = engine.step()
            in_flight -= len(ended)
            tokens += sum(completion.completion_tokens for completion in ended)
        return tokens


class Transformers:
    """The job on transformers; a side is the number of requests in its static batches."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._engine = start_transformers(bench.config)

    def forget(self) -> None:
        """Nothing is cached."""

    def take(self, side: str, job: BatchJob) -> Ran:
        """One turn."""
        if side == "warm-up":
            self._engine.add(Request(0, 1, self._bench.prompts[0]))
            return Ran(len(self._engine.step()))
        settings = job.engine.model_copy(update={"max_num_seqs": int(side)})
        config = self._bench.config.model_copy(update={"settings": settings})
        engine = KeptLoaded(self._engine._model, self._engine._tokenizer, config)
        placed = job.model_copy(update={"engine": settings})
        return whole_job(placed, self._bench.model, engine)


def whole_job(job: BatchJob, model: ModelOnDisk, engine: Engine) -> Ran:
    """Everything that `run_batch` does, in this process."""
    planned = plan(job, model)
    journal = journal_folder(job.output, planned.job_id)
    done: WorkerReport = work(
        WorkerRequest(job=job, model=model, journal=journal), lambda _: engine
    )
    store = open_store(job.output)
    manifest = count(planned, store, job.limits.max_error_rate)
    write_report(planned, manifest, store)
    write_manifest(manifest, store)
    return Ran(manifest.tokens.completion, done.occupancy)


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
