"""What a million tokens of a model cost: a measured speed and the price of the machine.

A cost record is bound to a weight digest and names what it was measured on, so that a price list
and a speed from somewhere else cannot stand in for it. It lies at costs/NAME.json of a registry.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.canonical import Frozen
from pipelines.records import read_record

SECONDS_AN_HOUR = 3600


class CostRecord(Frozen):
    """Tokens that one set of weights processed on one machine, and what the time cost."""

    kind: Literal["cost"] = "cost"
    weight_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    engine: str = Field(min_length=1, description="and version, e.g. 'vllm 0.11.0'")
    machine: str = Field(min_length=1, description="e.g. '1 x H100 80 GB, p5.4xlarge'")
    price_usd_per_hour: float = Field(gt=0, allow_inf_nan=False, description="of that machine")
    price_source: str = Field(min_length=1, description="price list or contract, with its date")
    prompt_tokens: int = Field(ge=0)
    generated_tokens: int = Field(ge=1)
    seconds: float = Field(
        gt=0, allow_inf_nan=False, description="from engine start to last answer"
    )
    measured_on: date
    measurement_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="of the run's own record, e.g. a batch manifest"
    )

    @property
    def tokens_per_second(self) -> float:
        """Prompt and generated tokens together."""
        return (self.prompt_tokens + self.generated_tokens) / self.seconds

    @property
    def usd_per_mtok(self) -> float:
        """US dollars for a million tokens, prompt and generated together, at that speed."""
        return self.price_usd_per_hour / SECONDS_AN_HOUR / self.tokens_per_second * 1e6


def read_cost(path: Path) -> CostRecord | None:
    """The cost record at `path`, None where there is none; ConfigError where it does not parse."""
    return read_record(path, CostRecord) if path.exists() else None
