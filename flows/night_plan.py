"""What a night does, in which order, and what it can afford."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from flows.form_fields import Form, ask
from pipelines.errors import ConfigError, UnknownName
from pipelines.models_file import EvaluationEntry, load_models
from pipelines.records import RunInfo, read_record
from pipelines.releases import DEFAULT_STAGE, read_release
from pipelines.store import tags
from pipelines.store.registry import Layout

PRODUCTION = "production"  # as the name of a control: whatever is in production
Role = Literal["production", "candidate", "other"]


class Budget(Form):
    """What a night may take; None is no limit. Money is time at the price of this machine."""

    hours: float | None = ask(0, "Hours", "Of the whole night.", default=None, gt=0)
    usd: float | None = ask(1, "US dollars", "Needs the price of an hour.", default=None, gt=0)
    usd_per_hour: float | None = ask(
        2, "Price of an hour", "Of this machine, in US dollars.", default=None, gt=0
    )


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of models.yaml; seconds and time are those of its last run, if it had one."""

    key: str
    entry: EvaluationEntry
    role: Role
    finished_at: datetime | None
    seconds: float

    def age(self, now: datetime) -> str:
        """Days since its last run, for people."""
        if self.finished_at is None:
            return "never run"
        return f"{(now - self.finished_at).total_seconds() / 86_400:.1f} days old"


class Purse:
    """What is left of a budget; `clock` gives seconds and does not go back."""

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        if budget.usd is not None and budget.usd_per_hour is None:
            raise ConfigError(
                "the night's budget",
                "an amount of money and no price of an hour",
                "Name the price of an hour of this machine, or leave the amount out.",
            )
        self.budget, self._clock, self._began = budget, clock, clock()

    def cost_usd(self, seconds: float) -> float | None:
        """What `seconds` of this machine cost, None where no price is named."""
        price = self.budget.usd_per_hour
        return None if price is None else price * seconds / 3600

    def refusal(self, expected_s: float) -> str:
        """Why a run that took `expected_s` the last time is not started now; '' where it is."""
        spent_s = self._clock() - self._began
        hours = self.budget.hours
        if hours is not None and spent_s + expected_s > hours * 3600:
            left = max(0.0, hours * 3600 - spent_s)
            return f"time budget: it took {expected_s:.0f} s the last time, {left:.0f} s are left"
        spent, needed = self.cost_usd(spent_s), self.cost_usd(expected_s)
        limit = self.budget.usd
        if limit is None or spent is None or needed is None or spent + needed <= limit:
            return ""
        return f"money budget: about {needed:.2f} USD, {max(0.0, limit - spent):.2f} USD are left"


def evaluations(root: Path, models: Sequence[str]) -> list[Evaluation]:
    """The evaluations of `models`, or all of models.yaml, stalest first; never run comes first.

    Raises UnknownName for a name that is no model, ConfigError when there is nothing to evaluate.
    """
    file = load_models(root)
    for name in models:
        if name not in file.weights():
            raise UnknownName("models.yaml", "model or tuning", name, file.weights())
    held = set(in_production(root).values())
    found = []
    for key, entry in file.evaluations.items():
        if models and entry.model not in models:
            continue
        role: Role = "candidate" if entry.model in file.gates else "other"
        role = "production" if entry.model in held else role
        finished, seconds = _last_run(root, entry)
        found.append(Evaluation(key, entry, role, finished, seconds))
    if not found:
        raise ConfigError("models.yaml", "there is nothing to evaluate", "Onboard a model first.")
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda each: (each.finished_at or never, each.key))


def controls(root: Path, control: str) -> list[str]:
    """Keys of the evaluations that are scored again: of one model, or of what is in production.

    '' asks for none, and there is none while nothing is in production. Raises UnknownName for a
    name that is no model, and ConfigError when it has no evaluation: a night that was asked for a
    control and has none must not look like one that had.
    """
    if not control:
        return []
    file = load_models(root)
    names = [control]
    if control == PRODUCTION and control not in file.weights():
        names = sorted(set(in_production(root).values()))
        if not names:
            return []
    elif control not in file.weights():
        raise UnknownName("models.yaml", "model or tuning", control, file.weights())
    keys = [key for name in names for key in file.evaluations_of(name)]
    if not keys:
        fact = f"the control {control} has no evaluation"
        raise ConfigError("models.yaml", fact, "Evaluate it first, or name another control.")
    return keys


def in_production(root: Path) -> dict[str, str]:
    """Release line to the model in production; read from the signed release records."""
    held = {}
    for line, stage in tags.stages_of(root):
        assigned = tags.assignment(root, line, stage)
        if stage == DEFAULT_STAGE and assigned is not None:
            held[line] = read_release(root, assigned.commit, f"{line}@{stage}").model
    return held


def _last_run(root: Path, entry: EvaluationEntry) -> tuple[datetime | None, float]:
    folder = Layout(root).evaluation(entry.model, entry.suite)
    path = folder.with_name(f"{folder.name}.run.json")
    if not path.is_file():
        return None, 0.0
    info = read_record(path, RunInfo)
    return datetime.fromisoformat(info.finished_at), info.wall_s
