"""Gate policy: what a verdict requires, read strictly from YAML.

The smallest policy is two lines::

    alpha: 0.05
    tasks: {"*": {margin: 0.02}}

Every field is enforced: by the gate, or (`max_evidence_age_days`, `approvals`) by promotion, which
reads them from the verdict. A key that is not here is an error, never ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from pipelines.canonical import Frozen
from pipelines.models_file import load_yaml, parse_config
from pipelines.records import Requirements, ShadowRequirement

EVERY_TASK = "*"


class Strict(Frozen):
    """A closed schema that does not guess: "0.05" is no number, and NaN is no bound."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Superiority(Strict):
    """The candidate must be better by more than `min_effect`, shown at alpha."""

    min_effect: float = Field(default=0.0, ge=0, lt=1, description="in units of the metric")


class TaskRule(Strict):
    """What one task must show. Everything that is stated must hold."""

    margin: float | None = Field(
        default=None,
        gt=0,
        le=0.5,
        description="the largest loss against the baseline that would be acceptable, in units of "
        "the metric; the data must show that the true loss is smaller",
    )
    minimum: float | None = Field(
        default=None,
        description="the candidate's score on the suite's items is at least this (at most, where "
        "lower is better)",
    )
    superiority: Superiority | None = None
    metric: str | None = Field(default=None, min_length=1, description="which the record must hold")
    min_items: int | None = Field(default=None, ge=1, description="fewer items cannot tell")
    cluster: str | None = Field(
        default=None,
        min_length=1,
        description="field of lm-eval's documents that dependent items share, such as a passage; "
        "a registry's suites name it themselves",
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.margin is None and self.minimum is None and self.superiority is None:
            raise ValueError("a rule needs at least one of margin, minimum, superiority")
        return self


class SliceRule(Strict):
    """What each slice by one key must show. Without a margin, only shown harm blocks."""

    margin: float | None = Field(
        default=None, gt=0, le=0.5, description="as a task's; small slices then cannot tell"
    )
    min_items: int | None = Field(default=None, ge=1, description="fewer items cannot tell")

    @model_validator(mode="after")
    def _size_needs_a_margin(self) -> Self:
        if self.min_items is not None and self.margin is None:
            raise ValueError("min_items decides nothing without a margin")
        return self


class SuperiorOnAny(Strict):
    """At least one of `tasks` must show superiority; Holm's correction holds alpha over all."""

    tasks: tuple[str, ...] = Field(min_length=2, strict=False)
    min_effect: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("a task is listed twice")
        return self


class Approvals(Strict):
    """Signatures that promotion collects."""

    required: int = Field(ge=0, le=20)


class GatePolicy(Strict):
    """A whole policy file. All tasks must pass (intersection-union), so alpha needs no correction.

    `tasks` maps 'suite/task', or 'task' in any suite, to its rule; '*' holds for every evaluated
    task without one.
    """

    alpha: float = Field(gt=0, le=0.2, description="one-sided level of every test")
    tasks: dict[str, TaskRule] = Field(min_length=1)
    slices: dict[str, SliceRule] = Field(
        default={}, description="field of an item to its rule; all other slices: only shown harm"
    )
    superior_on_any: SuperiorOnAny | None = None
    verification: Literal["pass"] | None = Field(
        default=None, description="'pass': the candidate's verification record must exist and pass"
    )
    licence: Literal["allowed"] | None = Field(
        default=None,
        description="'allowed': the verification must have established a licence that allows the "
        "declared use; a waiver of the finding does not count",
    )
    max_cost_usd_per_mtok: float | None = Field(
        default=None,
        gt=0,
        description="what a million tokens of the candidate may cost at most, by its cost record: "
        "measured tokens per second on a named machine and the price of an hour of it",
    )
    max_contamination: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of a suite's items that may overlap with training data, by the "
        "candidate's contamination records",
    )
    template_change: bool = Field(
        default=False,
        description="true where the change of chat template is what is tested: items are then "
        "paired without their prompts, and the verdict says so",
    )
    max_evidence_age_days: float | None = Field(default=None, gt=0, description="at promotion")
    approvals: Approvals | None = Field(default=None, description="at promotion")
    shadow: ShadowRequirement | None = Field(
        default=None,
        description="at promotion: what a shadow run beside production must have shown; null asks "
        "for none, and the first release of a line has nothing to be compared with",
    )

    @model_validator(mode="after")
    def _task_names_have_a_suite(self) -> Self:
        names = [*self.tasks, *(self.superior_on_any.tasks if self.superior_on_any else ())]
        for name in names:
            if not all(name.split("/")) or name.count("/") > 1:
                raise ValueError(f"{name!r} is neither 'suite/task', 'task' nor '*'")
        return self

    def rule(self, task: str) -> TaskRule | None:
        """The rule of 'suite/task': its own, else that of the bare task, else of '*', else None.

        A task that is judged by several metrics ('suite/task:metric') has the task's rule.
        """
        names = (*names_of(task), EVERY_TASK)
        return next((self.tasks[name] for name in names if name in self.tasks), None)

    def judges(self, suite: str) -> bool:
        """Whether any rule can apply to a suite's tasks: with '*', or named with or without it."""
        return EVERY_TASK in self.tasks or any(
            name.startswith(f"{suite}/") or "/" not in name for name in self.named_tasks()
        )

    def named_tasks(self) -> list[str]:
        """Every task that the policy names, and that evidence must therefore hold."""
        named = {*self.tasks, *(self.superior_on_any.tasks if self.superior_on_any else ())}
        return sorted(named - {EVERY_TASK})

    def requirements(self) -> Requirements:
        """What promotion has to enforce; copied into the verdict."""
        return Requirements(
            max_evidence_age_days=self.max_evidence_age_days,
            approvals=self.approvals.required if self.approvals else 0,
            shadow=self.shadow,
        )


def names_of(task: str) -> tuple[str, ...]:
    """What a policy may call 'suite/task:metric', from the closest name to the widest."""
    bare = task.rpartition("/")[2]
    names = (task, bare, task.partition(":")[0], bare.partition(":")[0])
    return tuple(dict.fromkeys(names))


def load_policy(path: Path) -> GatePolicy:
    """Read a policy; raises ConfigError that names the file and the key."""
    return parse_config(path, GatePolicy, load_yaml(path))
