"""Throughput that was measured: what past jobs of a model took here, and what the next may take.

Every job that is run adds one line to a file in the machine's home. An estimate uses those of the
same weights, adapter, hardware and number of workers. Without any there is no estimate: a figure
for other weights or another machine would be a guess.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from pydantic import Field, ValidationError

from pipelines.batch.gpus import visible_gpus
from pipelines.batch.records import BatchManifest, JobPlan, WorkerReport
from pipelines.canonical import Frozen, canonical_json

FILE = "throughput.jsonl"
_LEAST_ROWS = 32  # fewer say more about the start than about the engine
_LATEST = 20  # jobs; older ones ran other versions
_SPREAD = 0.2  # of one job repeated: load, order and caches differ


class Past(Frozen):
    """One run of one job; tokens and seconds of its engines, starts not included."""

    weight_digest: str
    adapter_digest: str = ""
    engine: str
    hardware: str
    workers: int
    rows: int
    prompt_tokens: int
    completion_tokens: int
    most_completion_tokens: int = Field(description="if every answer had been the longest")
    generate_s: float
    start_s: float


class Interval(Frozen):
    """The likeliest value, and what it should lie between."""

    likely: float
    least: float
    most: float


class Estimate(Frozen):
    """What a planned job may take."""

    jobs: int = Field(description="past jobs that it rests on")
    engine: str
    completion_tokens: Interval
    seconds: Interval = Field(description="engine start included")
    usd: Interval | None = Field(default=None, description="None without a price")


def record(
    home: Path, plan: JobPlan, manifest: BatchManifest, reports: Sequence[WorkerReport]
) -> bool:
    """Note what a run of a job took; False for one too small to tell anything.

    Tokens of a run that finished what others began are a share of the job's, by rows.
    """
    rows = sum(report.rows_generated for report in reports)
    generate_s = max((report.generate_s for report in reports), default=0.0)
    if rows < _LEAST_ROWS or generate_s <= 0:
        return False
    share = min(1.0, rows / max(1, sum(manifest.engines.values())))
    past = Past(
        weight_digest=plan.weight_digest,
        adapter_digest=plan.adapter_digest,
        engine=next(report.engine for report in reports if report.engine),
        hardware=hardware(),
        workers=len(reports),
        rows=rows,
        prompt_tokens=round(share * manifest.tokens.prompt),
        completion_tokens=round(share * manifest.tokens.completion),
        most_completion_tokens=round(share * plan.most_completion_tokens),
        generate_s=round(generate_s, 3),
        start_s=round(max(report.engine_start_s for report in reports), 3),
    )
    home.mkdir(parents=True, exist_ok=True)
    line = canonical_json(past.model_dump(mode="json")) + b"\n"
    descriptor = os.open(home / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)  # one write: lines of several processes do not mix
    finally:
        os.close(descriptor)
    return True


def estimate(
    home: Path, plan: JobPlan, workers: int = 1, usd_per_hour: float | None = None
) -> Estimate | None:
    """What a planned job may take on this machine; None when nothing like it was measured.

    Each past job is scaled by prompt tokens and by the tokens of answers, which bound the truth:
    reading and writing cost differently, and the mix differs. The interval is the widest of them
    and a fifth more on either side. Answers are as long as past answers were, as a share of their
    limit; at most all are the longest.
    """
    past = _alike(home, plan, workers)
    if not past:
        return None
    shares = [job.completion_tokens / max(1, job.most_completion_tokens) for job in past]
    limit = plan.most_completion_tokens
    answers = Interval(
        likely=round(median(shares) * limit),
        least=round(min(shares) * (1 - _SPREAD) * limit),
        most=round(min(1.0, max(shares) * (1 + _SPREAD)) * limit),
    )
    likely = [_scaled(job, _prompt_tokens(plan, answers.likely), answers.likely) for job in past]
    least = [_scaled(job, _prompt_tokens(plan, answers.least), answers.least) for job in past]
    most = [_scaled(job, _prompt_tokens(plan, answers.most), answers.most) for job in past]
    starts = [job.start_s for job in past]
    seconds = Interval(
        likely=round(median(starts) + median(both for pair in likely for both in pair), 1),
        least=round((min(starts) + min(map(min, least))) * (1 - _SPREAD), 1),
        most=round((max(starts) + max(map(max, most))) * (1 + _SPREAD), 1),
    )
    return Estimate(
        jobs=len(past),
        engine=past[-1].engine,
        completion_tokens=answers,
        seconds=seconds,
        usd=_cost(seconds, workers, usd_per_hour),
    )


def hardware() -> str:
    """What runs the engine: processor, its cores, and how many GPUs."""
    processor = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    folder = Path("/proc/driver/nvidia/gpus")
    named = sorted(p.read_text(errors="replace") for p in folder.glob("*/information"))
    models = {line.partition(":")[2].strip() for text in named for line in text.splitlines()[:1]}
    gpus = len(visible_gpus())
    return f"{processor}, {os.cpu_count()} cores, {gpus} GPUs {' '.join(sorted(models))}".strip()


def _alike(home: Path, plan: JobPlan, workers: int) -> list[Past]:
    """The latest past jobs that count for this one, all of the engine that ran last."""
    try:
        lines = (home / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    past = []
    for line in lines:
        try:
            past.append(Past.model_validate_json(line))
        except ValidationError:  # of another version
            continue
    wanted = (plan.weight_digest, plan.adapter_digest, hardware(), workers)
    alike = [
        job
        for job in past
        if (job.weight_digest, job.adapter_digest, job.hardware, job.workers) == wanted
    ]
    return [job for job in alike if job.engine == alike[-1].engine][-_LATEST:]


def _prompt_tokens(plan: JobPlan, completion_tokens: float) -> int:
    """Tokens that are read; prompts that combine answers are as long as answers are."""
    share = completion_tokens / max(1, plan.most_completion_tokens)
    return plan.prompt_tokens + round(share * plan.reduced_prompt_tokens)


def _scaled(job: Past, prompt_tokens: int, completion_tokens: float) -> tuple[float, float]:
    """Seconds by what is read and by what is written; by reading alone where nothing is."""
    by_prompt = job.generate_s * prompt_tokens / max(1, job.prompt_tokens)
    if not job.completion_tokens:
        return by_prompt, by_prompt
    return by_prompt, job.generate_s * completion_tokens / job.completion_tokens


def _cost(seconds: Interval, workers: int, usd_per_hour: float | None) -> Interval | None:
    if usd_per_hour is None:
        return None
    price = workers * usd_per_hour / 3600
    return Interval(
        likely=seconds.likely * price, least=seconds.least * price, most=seconds.most * price
    )
