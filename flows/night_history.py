"""Past nights: a small canonical JSON file each, in WEIGHBRIDGE_HOME, never in the registry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from evals.drift import DriftReport
from evals.flips import TaskChange
from pipelines.canonical import Frozen, write_record
from pipelines.records import EvaluationRecord, read_record
from pipelines.settings import Settings

Outcome = Literal["current", "evaluated", "failed", "left out", "no drift", "drifted"]


class NightRow(Frozen):
    """What became of one evaluation, or of a control that was scored again."""

    evaluation: str
    role: str = ""
    outcome: Outcome
    detail: str
    age: str = Field(default="", description="of the evidence when the night began")
    seconds: float = 0.0
    cost_usd: float | None = None


class NightScore(Frozen):
    """One task of one model, as the registry's record states it at the end of the night."""

    model: str
    suite: str
    task: str
    metric: str
    higher_is_better: bool
    value: float


class NightChange(Frozen):
    """A task of an evaluation that ran again, before and after."""

    evaluation: str
    change: TaskChange


class NightRecord(Frozen):
    """One night."""

    kind: Literal["night"] = "night"
    began_at: str = Field(description="ISO 8601 in UTC")
    rows: tuple[NightRow, ...]
    scores: tuple[NightScore, ...]
    changes: tuple[NightChange, ...]
    drift: tuple[DriftReport, ...] = ()

    @property
    def regressions(self) -> list[NightChange]:
        """Tasks for which a loss was shown."""
        return [each for each in self.changes if each.change.outcome == "regressed"]

    @property
    def drifted(self) -> list[DriftReport]:
        """Controls that came out differently."""
        return [report for report in self.drift if report.drifted]


def nights_folder(settings: Settings) -> Path:
    """Where nights are kept."""
    return settings.home / "nights"


def keep(settings: Settings, night: NightRecord) -> Path:
    """Write one night; returns its path. A night that is kept twice is replaced."""
    name = re.sub(r"[^0-9A-Za-z]", "", night.began_at)
    path = nights_folder(settings) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, night)
    return path


def past(settings: Settings, last: int = 60) -> list[NightRecord]:
    """The last nights, oldest first."""
    paths = sorted(nights_folder(settings).glob("*.json"))[-last:]
    return [read_record(path, NightRecord) for path in paths]


def scores_of(record: EvaluationRecord) -> list[NightScore]:
    """The scores of one evaluation, for the trend."""
    return [
        NightScore(
            model=record.name,
            suite=record.suite,
            task=task.task,
            metric=task.metric,
            higher_is_better=task.higher_is_better,
            value=task.value,
        )
        for task in record.tasks
    ]
