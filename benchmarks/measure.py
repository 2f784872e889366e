"""What a benchmark returns."""

from __future__ import annotations

from typing import Literal

from pipelines.canonical import Frozen


class Measure(Frozen):
    """One figure with its target; `name` starts with its area, e.g. 'batch.overhead_cpu'."""

    name: str
    measured: float
    unit: str
    target: float
    better: Literal["higher", "lower"]

    @property
    def met(self) -> bool:
        """Whether the figure reaches its target."""
        if self.better == "higher":
            return self.measured >= self.target
        return self.measured <= self.target

    def line(self) -> str:
        """Name, measured, target, met or missed."""
        sign = ">=" if self.better == "higher" else "<="
        word = "met" if self.met else "MISSED"
        return (
            f"{self.name:44} {self.measured:>12.4g} {self.unit:8} "
            f"target {sign} {self.target:<8.4g} {word}"
        )
