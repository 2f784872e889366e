"""What a worker asks of an engine. vLLM is the one that runs; tests have a scripted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.batch.job import EngineSettings, Sampling
from pipelines.canonical import Frozen


class EngineConfig(Frozen):
    """All that an engine is started with."""

    weights: Path
    sampling: Sampling
    output_schema: dict[str, Any] | None
    max_model_len: int
    settings: EngineSettings


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt at one row."""

    row: int
    attempt: int  # from 1
    prompt_token_ids: list[int]

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


class RequestRefused(Exception):
    """The engine will not take this one request; the row becomes an error row."""


class Engine(Protocol):
    """A step loop: requests go in at any time, each step returns those that ended."""

    @property
    def name(self) -> str:
        """Engine and version, as every row that it answers records them."""

    def add(self, request: Request) -> None:
        """Queue a request; raises RequestRefused when it can never run."""

    def step(self) -> list[Completion]:
        """Advance all requests by a token or so and return those that ended."""

    def close(self) -> None:
        """Give back memory; requests in flight are dropped."""


MakeEngine = Callable[[EngineConfig], Engine]
