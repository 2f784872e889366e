"""What a smoke test says: the record smoke.json."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.canonical import Frozen


class SmokeAnswer(Frozen):
    """The greedy continuation of one prompt."""

    prompt: str
    completion: str
    tokens: int
    finite: bool = Field(description="whether all logits were finite")
    cycle: int = Field(description="length of a repeated cycle of tokens, 0 if there is none")


class SmokeResult(Frozen):
    """What the smoke test saw; deterministic on one machine and environment."""

    kind: Literal["smoke"] = "smoke"
    outcome: Literal["passed", "failed", "not run"]
    tested: str = Field(default="", description="what it was tested as: see smoke/kinds.py")
    reason: str = Field(default="", description="why it was not run")
    problems: tuple[str, ...] = ()
    answers: tuple[SmokeAnswer, ...] = ()
    observations: tuple[str, ...] = Field(
        default=(), description="what was seen beside the answers, and what could not be tried"
    )
    weight_digest: str = ""


def said_by(error: Exception, weights: Path) -> str:
    """The first line of a library's error, without the place where the weights lie this time."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace(str(weights), "the model")


def not_run(reason: str) -> SmokeResult:
    """A model that was not tried, and why."""
    return SmokeResult(outcome="not run", reason=reason)
