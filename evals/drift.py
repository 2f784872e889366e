"""Whether the stack still gives what it gave: a control scored again, item by item.

The same weights on the same suite must give the same numbers. Where they do not, a library, a
driver or the machine changed what a model says, and comparisons with older results do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from evals.evidence import GateEvidence, SuiteEvidence, check_complete, read_suite
from evals.items import ItemResult
from pipelines.canonical import Frozen
from pipelines.errors import UnusableEvidence
from pipelines.records import EvaluationRecord, Finding

RULE = "drift.stack"
TOLERANCE_NATS = 1e-3
SCORE_TOLERANCE = 1e-6
LISTED = 10


class MovedItem(Frozen):
    """One item that came out differently; `recorded` is what it was, `rescored` what it is now."""

    task: str
    doc_id: int
    item_id: str
    recorded_score: float
    rescored_score: float
    recorded_answer: str
    rescored_answer: str
    largest_change_nats: float | None = Field(
        description="of its log likelihoods; None where the item has none"
    )
    same_prompt: bool


class DriftReport(Frozen):
    """A control against its own record; `changed` maps what differs to what it was and is."""

    kind: Literal["drift"] = "drift"
    name: str
    weight_digest: str
    suite: str
    suite_sha256: str
    tolerance_nats: float
    items: int
    moved: tuple[MovedItem, ...]
    other_answers: int = Field(description="items whose text changed and whose score did not")
    changed: dict[str, tuple[str, str]]
    findings: tuple[Finding, ...]

    @property
    def drifted(self) -> bool:
        """Whether any item moved beyond the tolerance."""
        return bool(self.moved)


def drift(recorded: Path, rescored: Path, tolerance_nats: float = TOLERANCE_NATS) -> DriftReport:
    """Compare two folders of one evaluation (evaluation.json, items.parquet) item by item.

    Score the second without a cache (evals.scoring.score), outside of dvc's outputs. An item has
    moved when its prompt is another, its score differs, or one of its log likelihoods differs by
    more than `tolerance_nats`. Raises what `read_suite` and `check_complete` raise, and
    UnusableEvidence when the two are about other weights, another suite or other items.
    """
    old, new = read_suite(recorded), read_suite(rescored)
    _check_same_subject(old.record, new.record)
    for side in (old, new):
        who = f"control {side.record.name}"
        check_complete(GateEvidence(suites=[side]), old.record.weight_digest, who)
    pairs = _pairs(old, new)
    moved = [
        _moved(before, after) for before, after in pairs if _differ(before, after, tolerance_nats)
    ]
    changed = _changed(old.record, new.record)
    texts = sum(
        before.answer != after.answer and before.score == after.score for before, after in pairs
    )
    return DriftReport(
        name=new.record.name,
        weight_digest=new.record.weight_digest,
        suite=new.record.suite,
        suite_sha256=new.record.suite_sha256,
        tolerance_nats=tolerance_nats,
        items=len(pairs),
        moved=tuple(moved),
        other_answers=texts,
        changed=changed,
        findings=_findings(new.record, len(pairs), moved, changed),
    )


def drift_lines(report: DriftReport) -> list[str]:
    """The report as Markdown."""
    head = f"## Control {report.name} on {report.suite}"
    if not report.drifted:
        return [head, "", f"{report.items} items came out as recorded: the stack did not drift."]
    lines = [head, "", *(f"- {finding.fact}" for finding in report.findings), ""]
    lines += [f"- {what}: was {old}, is {new}" for what, (old, new) in report.changed.items()]
    lines += [
        "",
        "| task | item | score | was | answer | was |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    for item in report.moved[:LISTED]:
        cells = [item.task, item.item_id, f"{item.rescored_score:g}", f"{item.recorded_score:g}"]
        texts = [item.rescored_answer, item.recorded_answer]
        cells += [" ".join(text.replace("|", "\\|").split())[:80] for text in texts]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _check_same_subject(old: EvaluationRecord, new: EvaluationRecord) -> None:
    for what, before, after in (
        ("weights", old.weight_digest, new.weight_digest),
        ("suite", old.suite_sha256, new.suite_sha256),
        ("chat template", old.template_sha256, new.template_sha256),
        ("dtype", old.dtype, new.dtype),
    ):
        if before != after:
            raise UnusableEvidence(
                f"control {new.name} on {new.suite}",
                f"recorded with {what} {before or 'none'}, scored again with {after or 'none'}",
                "A control is the same weights on the same suite: evaluate it, then compare.",
            )


def _pairs(old: SuiteEvidence, new: SuiteEvidence) -> list[tuple[ItemResult, ItemResult]]:
    before, after = _by_document(old), _by_document(new)
    if set(before) != set(after):
        raise UnusableEvidence(
            f"control {new.record.name} on {new.record.suite}",
            f"{len(set(before) ^ set(after))} items are in one of the two results only",
            "Score it on the suite that the record names.",
        )
    return [(before[key], after[key]) for key in sorted(before)]


def _by_document(side: SuiteEvidence) -> dict[tuple[str, int, str], ItemResult]:
    return {
        (item.task, item.doc_id, item.doc_hash): item
        for items in side.items.values()
        for item in items
    }


def _differ(before: ItemResult, after: ItemResult, tolerance_nats: float) -> bool:
    change = _largest_change(before.outputs, after.outputs)
    return (
        before.prompt_hash != after.prompt_hash
        or abs(before.score - after.score) > SCORE_TOLERANCE
        or len(before.outputs) != len(after.outputs)
        or (change is not None and change > tolerance_nats)
    )


def _largest_change(before: Sequence[float], after: Sequence[float]) -> float | None:
    return max((abs(a - b) for a, b in zip(before, after, strict=False)), default=None)


def _moved(before: ItemResult, after: ItemResult) -> MovedItem:
    change = _largest_change(before.outputs, after.outputs)
    return MovedItem(
        task=after.task,
        doc_id=after.doc_id,
        item_id=after.item_id,
        recorded_score=before.score,
        rescored_score=after.score,
        recorded_answer=before.answer,
        rescored_answer=after.answer,
        largest_change_nats=None if change is None else round(change, 6),
        same_prompt=before.prompt_hash == after.prompt_hash,
    )


def _changed(old: EvaluationRecord, new: EvaluationRecord) -> dict[str, tuple[str, str]]:
    """What of the stack the two records name differently."""
    names = sorted(old.versions.keys() | new.versions.keys())
    stated = [
        ("engine", old.engine, new.engine),
        ("code of the evaluation", old.code_digest, new.code_digest),
        *((name, old.versions.get(name, ""), new.versions.get(name, "")) for name in names),
    ]
    return {
        what: (before or "not recorded", after or "not recorded")
        for what, before, after in stated
        if before != after
    }


def _findings(
    record: EvaluationRecord,
    items: int,
    moved: Sequence[MovedItem],
    changed: dict[str, tuple[str, str]],
) -> tuple[Finding, ...]:
    if not moved:
        return ()
    flips = sum(abs(m.recorded_score - m.rescored_score) > SCORE_TOLERANCE for m in moved)
    stated = "; ".join(f"{what} {old} → {new}" for what, (old, new) in changed.items())
    fact = (
        f"the stack drifted: {len(moved)} of {items} items of {record.name} on {record.suite} "
        f"moved, {flips} of them in their score ({stated or 'the records name the same versions'})"
    )
    remedy = (
        "Evaluate candidates and baselines again on this stack before any comparison, or go back "
        "to the versions that the record names."
    )
    return (Finding(rule=RULE, severity="warning", file="", fact=fact, remedy=remedy),)
