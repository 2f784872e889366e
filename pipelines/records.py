"""The records: what each stage states about bytes, and the only interface between stages.

A record is deterministic: the same inputs, code and environment give the same bytes. When, where
and how long go into a `RunInfo` beside it, which is neither a dependency nor part of any digest.
All digests are sha256 as 64 lower-case hex digits; sizes are bytes; metrics lie in the range that
lm-eval gives them.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from pipelines.canonical import Frozen
from pipelines.digest import FileEntry
from pipelines.errors import ConfigError, WrongKindOfPath

Severity = Literal["info", "warning", "waived", "refusal"]
Outcome = Literal["pass", "block", "cannot_tell"]


class LicenceClaim(Frozen):
    """One place that states a licence, kept as found: a card, a GGUF key, a package's metadata."""

    source: str = Field(description="Where it was found, e.g. 'LICENSE' or 'gguf:general.license'")
    identifier: str = Field(default="", description="The identifier as written, or empty")
    text_sha256: str = Field(default="", description="sha256 of the licence text, if there is one")


class Ancestor(Frozen):
    """One step of a pedigree: the weights that these weights were made from."""

    name: str
    weight_digest: str
    relation: Literal[
        "dequantised-from", "depickled-from", "adapter-of", "merged-from", "quantised-from"
    ]
    licences: tuple[LicenceClaim, ...] = ()


class Derivation(Frozen):
    """How these bytes were made from other bytes, when they are not the publisher's own."""

    method: str = Field(description="e.g. 'dequantise-gguf', 'depickle', 'lora-merge'")
    source_files: tuple[FileEntry, ...]
    settings: dict[str, str | int | float | bool] = {}
    tools: dict[str, str] = Field(default={}, description="package name to version")


class ManifestRecord(Frozen):
    """What a folder under models/ holds and where it came from (evidence/NAME/origin)."""

    kind: Literal["manifest"] = "manifest"
    name: str
    weight_digest: str
    files: tuple[FileEntry, ...]
    reference: str = Field(description="The resolved reference, or 'tuning:NAME'")
    code_digest: str
    derivation: Derivation | None = None
    pedigree: tuple[Ancestor, ...] = ()
    licences: tuple[LicenceClaim, ...] = ()


class Waiver(Frozen):
    """Somebody's answer for one rule about one set of weights, until a day."""

    reason: str
    approver: str
    expires: date = Field(description="the last day on which it holds")


class Finding(Frozen):
    """One fact that a check found, with what to do about it."""

    rule: str = Field(description="Stable id, e.g. 'format.pickle' or 'licence.unknown'")
    severity: Severity
    file: str = Field(description="Path within the model folder, or '' for the whole")
    fact: str
    remedy: str
    waiver: Waiver | None = Field(default=None, description="of a finding that is waived")


class LicenceStep(Frozen):
    """The licence of one set of weights on the path to a model."""

    subject: str = Field(description="an ancestor's name, or '' for the model itself")
    families: tuple[str, ...] = Field(description="all of which hold; empty: not established")
    claims: tuple[str, ...] = Field(description="what was found, each with its place")
    spdx: tuple[str, ...] = Field(default=(), description="SPDX ids, as far as there are any")
    sources: tuple[str, ...] = Field(default=(), description="where the terms were read, with date")


class UseAnswer(Frozen):
    """One question of the declared use, and what one licence on the path answers."""

    family: str
    question: str
    declared: str
    terms: str
    allowed: bool


class LicenceDecision(Frozen):
    """Which licence was established, and what it asks of this use."""

    family: str
    spdx: str
    use: str
    allowed: bool
    obligations: tuple[str, ...] = ()
    source: str = Field(description="Where the licence facts were read, with date")
    path: tuple[LicenceStep, ...] = ()
    answers: tuple[UseAnswer, ...] = ()


class VerificationRecord(Frozen):
    """The verdict of `verify` about one weight digest."""

    kind: Literal["verification"] = "verification"
    name: str
    weight_digest: str
    code_digest: str
    policy_sha256: str
    passed: bool
    findings: tuple[Finding, ...]
    formats: dict[str, int] = Field(description="format name to number of files")
    parameters: int = Field(description="number of scalar weights in all tensors")
    template_sha256: str = Field(description="of the chat template's UTF-8 text, '' if none")
    licence: LicenceDecision
    saved_with: dict[str, str] = Field(
        default={}, description="package to version, as the configuration says; not what it needs"
    )
    statement: str = Field(description="what this verdict does not prove")


class TaskResult(Frozen):
    """One lm-eval task of a suite."""

    task: str
    metric: str
    higher_is_better: bool
    items: int
    value: float
    stderr: float | None = Field(description="None where lm-eval gives none")
    weight: float = Field(default=1.0, description="in the report's mean over tasks, nowhere else")
    task_sha256: str = Field(description="of the task's configuration")
    data_sha256: str = Field(description="of the task's data file")


class EvaluationRecord(Frozen):
    """The scores of one weight digest on one suite; per-item outcomes lie in items.parquet."""

    kind: Literal["evaluation"] = "evaluation"
    name: str
    weight_digest: str
    suite: str
    suite_sha256: str
    code_digest: str
    engine: str = Field(description="backend and version, e.g. 'transformers 5.19.0'")
    dtype: str
    template_sha256: str
    tasks: tuple[TaskResult, ...]
    items_sha256: str = Field(description="of items.parquet")
    versions: dict[str, str] = Field(
        default={}, description="distribution to version of what scored"
    )


class TrainingRecord(Frozen):
    """How a tuned model was made."""

    kind: Literal["training"] = "training"
    name: str
    weight_digest: str = Field(description="of the merged weights under models/NAME")
    adapter_digest: str = Field(description="weight digest of the adapter's own folder")
    base: str
    base_digest: str
    recipe_sha256: str
    dataset: str
    dataset_sha256: str
    code_digest: str
    rows: int
    rows_without_loss: int
    steps: int
    losses: tuple[float, ...]
    template_sha256: str
    data_checks_sha256: str = Field(description="of data_checks/results.json beside this record")
    parity_max_logprob_difference: float = Field(
        description="largest, in nats, between base + adapter and the merged weights"
    )
    settings: dict[str, str | int | float | bool]
    tools: dict[str, str]


class TaskVerdict(Frozen):
    """The gate's decision on one task."""

    task: str = Field(description="'suite/task'")
    outcome: Outcome
    items: int
    candidate: float
    baseline: float
    difference: float
    interval: tuple[float, float] = Field(description="two-sided, of the difference")
    margin: float | None = None
    smallest_margin: float | None = Field(
        default=None, description="the smallest margin these items could have shown"
    )
    detectable_margin: float | None = Field(
        default=None, description="the margin at which an equal candidate passes in 80 % of cases"
    )
    detectable_effect: float | None = Field(
        default=None, description="the true gain that would be shown in 80 % of cases"
    )
    clusters: int | None = Field(default=None, description="None where items are independent")
    effective_items: float | None = Field(
        default=None, description="how many independent items carry as much"
    )
    method: str = ""
    mcnemar_p: float | None = None
    superiority: Literal["not asked", "shown", "not shown"] = "not asked"
    reason: str


class SliceVerdict(Frozen):
    """The gate's look at the items of one task that share a value, e.g. one language."""

    task: str = Field(description="'suite/task'")
    key: str
    value: str
    outcome: Outcome
    items: int
    candidate: float
    baseline: float
    difference: float
    interval: tuple[float, float] = Field(description="two-sided, of the difference")
    margin: float | None = None
    smallest_margin: float
    harm_p: float = Field(description="of 'worse than the baseline', Holm-adjusted over all slices")
    reason: str


class ShadowRequirement(Frozen):
    """What a shadow run beside the production release must have shown."""

    min_rows: int = Field(default=100, ge=1, description="rows that both models were asked")
    min_agreement: float | None = Field(
        default=None, ge=0, le=1, description="reached by the lower end of the 95 % interval"
    )
    min_schema_validity: float | None = Field(default=None, ge=0, le=1)
    max_refusal_rate: float | None = Field(default=None, ge=0, le=1)
    max_length_ratio: float | None = Field(
        default=None, gt=1, description="of mean answer lengths, candidate over production, or back"
    )


class Requirements(Frozen):
    """What the policy asks of promotion, carried in the verdict that promotion reads."""

    max_evidence_age_days: float | None = None
    approvals: int = 0
    cost_measured_on: date | None = Field(
        default=None, description="day of the measurement that a required cost rests on"
    )
    shadow: ShadowRequirement | None = None


class Verdict(Frozen):
    """The gate's decision about one candidate against one pinned baseline."""

    kind: Literal["verdict"] = "verdict"
    name: str
    weight_digest: str
    baseline: str
    baseline_digest: str
    outcome: Outcome
    reasons: tuple[str, ...]
    tasks: tuple[TaskVerdict, ...]
    slices: tuple[SliceVerdict, ...] = ()
    policy: str
    policy_sha256: str
    code_digest: str
    evidence: dict[str, str] = Field(description="record path within the registry to its sha256")
    requirements: Requirements = Requirements()


class Release(Frozen):
    """A promotion; stands on its own once written."""

    kind: Literal["release"] = "release"
    release: str = Field(description="name of the release line, e.g. 'licence-triage'")
    version: str = Field(description="'v1.0.0'")
    stage: str
    model: str
    weight_digest: str
    files: tuple[FileEntry, ...]
    verdict_sha256: str
    verification_sha256: str
    origin_sha256: str
    template_sha256: str
    commit: str = Field(description="registry commit whose dvc.lock restores these bytes")
    supersedes: str = Field(description="weight digest that was in this stage before, or ''")
    approvers: tuple[str, ...] = ()


class RunInfo(Frozen):
    """When, where and how long: beside a record, never in it."""

    stage: str
    started_at: str
    finished_at: str
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    host: str
    details: dict[str, str | int | float] = {}


RecordT = TypeVar("RecordT", bound=Frozen)


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """Read one record; raises WrongKindOfPath when absent, ConfigError when it does not parse."""
    if not path.is_file():
        raise WrongKindOfPath(path, f"a {kind.__name__}")
    return parse_record(path.read_bytes(), path, kind)


def parse_record(data: bytes, path: Path | str, kind: type[RecordT]) -> RecordT:
    """Parse a record's bytes; raises ConfigError naming `path` when they are not one."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            path, f"not a {kind.__name__} ({where}: {first['msg']})", "Run its stage again."
        ) from error
