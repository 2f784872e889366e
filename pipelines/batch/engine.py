"""What a worker asks of an engine: vLLM for most models, transformers for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.batch.records import AdapterOnDisk
from pipelines.batch.settings import EngineSettings, Sampling, Task
from pipelines.canonical import Frozen

SEEDS_A_ROW = 16  # more than the attempts that a row may have


class EngineConfig(Frozen):
    """All that an engine is started with."""

    weights: Path
    sampling: Sampling
    output_schema: dict[str, Any] | None
    max_model_len: int
    settings: EngineSettings
    task: Task = "generate"
    own_schemas: bool = False  # rows may bring schemas of their own
    adapter: AdapterOnDisk | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt at one row."""

    row: int
    attempt: int  # from 1
    prompt_token_ids: list[int]
    sampling: Sampling | None = None  # this row's own, with `output_schema`, instead of the job's
    output_schema: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """Unique among all requests of a job."""
        return f"{self.row}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of one request."""

    key: str
    text: str
    finish_reason: str  # 'stop', 'length'; anything else means that the engine gave it up
    completion_tokens: int
    cached_tokens: int
    vector: bytes | None = None  # instead of text: little-endian float32


class RequestRefused(Exception):
    """The engine will not take this one request; the row becomes an error row."""


class Engine(Protocol):
    """A step loop: requests go in at any time, each step returns those that ended."""

    @property
    def name(self) -> str:
        """Engine and version, as every row that it answers records them."""

    @property
    def max_num_seqs(self) -> int:
        """How many requests it runs at once; what is in flight beyond that waits in its queue."""

    def add(self, request: Request) -> None:
        """Queue a request; raises RequestRefused when it can never run."""

    def step(self) -> list[Completion]:
        """Advance all requests by a token or so and return those that ended."""

    def close(self) -> None:
        """Give back memory; requests in flight are dropped."""


MakeEngine = Callable[[EngineConfig], Engine]


def temperature(sampling: Sampling, attempt: int) -> float:
    """Of the first attempt as asked for; a further one must not repeat it."""
    if attempt == 1:
        return sampling.temperature
    return max(sampling.temperature, sampling.retry_temperature)


def seed(sampling: Sampling, request: Request) -> int:
    """A seed of its own for each attempt at each row, whatever runs beside it."""
    return (sampling.seed + request.row * SEEDS_A_ROW + request.attempt) % 2**31
