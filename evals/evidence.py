"""Evaluation results as the gate reads them: bound to their digests, and complete.

Whatever cannot carry a decision raises UnusableEvidence, with the fact and the remedy: nothing
here fills a gap, and nothing is averaged over less than what the record promises.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals.contamination import ContaminationRecord
from evals.costs import CostRecord, read_cost
from evals.items import ItemResult, read_items
from pipelines.canonical import sha256_file
from pipelines.errors import DigestMismatch, UnusableEvidence
from pipelines.records import EvaluationRecord, TaskResult, VerificationRecord, read_record

VERIFICATION_FILE = "verification/verification.json"
EVALUATIONS_FOLDER = "evaluations"
EVALUATION_FILE = "evaluation.json"
ITEMS_FILE = "items.parquet"
CONTAMINATION_FILE = "contamination.json"
COSTS_FOLDER = "costs"
MEAN_TOLERANCE = 1e-6

EVALUATE_AGAIN = "Evaluate this model again; no decision rests on incomplete results."


@dataclass(frozen=True)
class SuiteEvidence:
    """One evaluation record, its items by task name, and what its suite shares with training."""

    record: EvaluationRecord
    items: Mapping[str, Sequence[ItemResult]]
    contamination: ContaminationRecord | None = None


@dataclass(frozen=True)
class GateEvidence:
    """All that the gate knows of one model; `files` maps each record's path to its sha256."""

    suites: Sequence[SuiteEvidence]
    verification: VerificationRecord | None = None
    cost: CostRecord | None = None
    files: Mapping[str, str] = field(default_factory=dict)


def read_evidence(folder: Path) -> GateEvidence:
    """Read evidence/NAME of a registry: evaluations and, where there are, verification and cost.

    Paths in `files` are relative to the registry. Raises WrongKindOfPath and ConfigError on files
    that are missing or no records, UnusableEvidence on items that do not fit their schema, and
    DigestMismatch when items.parquet is not the file that its record was written with.
    """
    files: dict[str, str] = {}
    suites = []
    root = folder.parent.parent
    # A hidden folder is what an interrupted evaluation left behind.
    for place in sorted((folder / EVALUATIONS_FOLDER).glob("[!.]*/")):
        suite = read_suite(place)
        suites.append(suite)
        files[_name(root, place / EVALUATION_FILE)] = sha256_file(place / EVALUATION_FILE)
        files[_name(root, place / ITEMS_FILE)] = suite.record.items_sha256
        if suite.contamination is not None:
            path = place / CONTAMINATION_FILE
            files[_name(root, path)] = sha256_file(path)
    verification = None
    path = folder / VERIFICATION_FILE
    if path.exists():
        verification = read_record(path, VerificationRecord)
        files[_name(root, path)] = sha256_file(path)
    cost = read_cost(root / COSTS_FOLDER / f"{folder.name}.json")
    return GateEvidence(suites=suites, verification=verification, cost=cost, files=files)


def read_suite(folder: Path) -> SuiteEvidence:
    """Read one evaluation: evaluation.json, items.parquet and, if there, contamination.json."""
    record = read_record(folder / EVALUATION_FILE, EvaluationRecord)
    path = folder / ITEMS_FILE
    by_task: dict[str, list[ItemResult]] = {}
    for item in read_items(path):
        by_task.setdefault(item.task, []).append(item)
    actual = sha256_file(path)
    if actual != record.items_sha256:
        raise DigestMismatch(path, record.items_sha256, actual)
    overlap = folder / CONTAMINATION_FILE
    contamination = read_record(overlap, ContaminationRecord) if overlap.exists() else None
    return SuiteEvidence(record=record, items=by_task, contamination=contamination)


def check_complete(evidence: GateEvidence, digest: str, who: str) -> None:
    """Refuse evidence that is empty, partial, duplicated, or about other weights than `digest`.

    `who` names the model in messages, e.g. "candidate licence-triage-1".
    """
    if not evidence.suites:
        raise UnusableEvidence(who, "there is no evaluation", "Run its evaluate stages, then gate.")
    if twice := _repeated(suite.record.suite for suite in evidence.suites):
        raise UnusableEvidence(who, f"suite {twice} is there twice", "Keep one evaluation of each.")
    verified = evidence.verification
    if verified is not None and verified.weight_digest != digest:
        fact = f"verified weights {verified.weight_digest}, but the gate is about {digest}"
        raise UnusableEvidence(who, fact, "Verify the weights that the gate names.")
    for suite in evidence.suites:
        about = f"{who}, suite {suite.record.suite}"
        if suite.record.weight_digest != digest:
            fact = f"evaluated weights {suite.record.weight_digest}, but the gate is about {digest}"
            raise UnusableEvidence(about, fact, "Evaluate the weights that the gate names.")
        used = suite.record.template_sha256
        if verified is not None and used and used != verified.template_sha256:
            fact = f"run with chat template {used}, verified: {verified.template_sha256 or 'none'}"
            raise UnusableEvidence(about, fact, "Evaluate with the template that was verified.")
        _check_tasks(suite, about)


def _check_tasks(suite: SuiteEvidence, about: str) -> None:
    results = suite.record.tasks
    if not results:
        raise UnusableEvidence(about, "no task in the record", EVALUATE_AGAIN)
    if twice := _repeated(result.task for result in results):
        raise UnusableEvidence(about, f"task {twice} is there twice", EVALUATE_AGAIN)
    if extra := sorted(set(suite.items) - {result.task for result in results}):
        fact = f"items of task {extra[0]}, which the record does not hold"
        raise UnusableEvidence(about, fact, EVALUATE_AGAIN)
    for result in results:
        _check_task(result, suite.items.get(result.task, ()), f"{about}, task {result.task}")


def _check_task(result: TaskResult, items: Sequence[ItemResult], about: str) -> None:
    if not items:
        raise UnusableEvidence(about, "no items", EVALUATE_AGAIN)
    if len(items) != result.items:
        fact = f"{len(items)} items, but the record counts {result.items}"
        raise UnusableEvidence(about, fact, EVALUATE_AGAIN)
    if twice := _repeated(str(item.doc_id) for item in items):
        fact = f"document {twice} was scored more than once"
        raise UnusableEvidence(about, fact, "Give every document of the task its own id.")
    for item in items:
        _check_item(item, result, about)
    if not math.isfinite(result.value):
        raise UnusableEvidence(about, f"its {result.metric} is {result.value}", EVALUATE_AGAIN)
    mean = math.fsum(item.score for item in items) / len(items)
    if abs(mean - result.value) > MEAN_TOLERANCE * max(1.0, abs(mean)):
        fact = f"the record says {result.metric} {result.value}, but its items average {mean:.6f}"
        raise UnusableEvidence(about, fact, EVALUATE_AGAIN)


def _check_item(item: ItemResult, result: TaskResult, about: str) -> None:
    subject = f"{about}, document {item.doc_id}"
    if not (item.doc_hash and item.prompt_hash):
        fact = "no hash of the document or of the prompt"
        raise UnusableEvidence(subject, fact, EVALUATE_AGAIN)
    if item.metric != result.metric:
        fact = f"scored by {item.metric}, and the record holds {result.metric}"
        raise UnusableEvidence(subject, fact, EVALUATE_AGAIN)
    if not math.isfinite(item.score):
        fact = f"its score is {item.score}: the model's output is not a number"
        raise UnusableEvidence(subject, fact, "Check the weights for NaN, and evaluate again.")


def _repeated(values: Iterable[str]) -> str:
    """The first value that occurs twice, or the empty string."""
    return next((value for value, count in Counter(values).items() if count > 1), "")


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
