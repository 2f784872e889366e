"""Evidence of two models as the gate reads it: real records and item files, made to be changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.gate import GateConfig, gate
from evals.items import ItemResult, write_items
from evals.policy import GatePolicy
from pipelines.canonical import sha256_bytes, write_record
from pipelines.models_file import Baseline
from pipelines.records import (
    EvaluationRecord,
    LicenceDecision,
    TaskResult,
    Verdict,
    VerificationRecord,
)


def digest(text: str) -> str:
    return sha256_bytes(text.encode())


CANDIDATE, BASELINE = digest("candidate"), digest("baseline")
TEMPLATE = digest("template")
SMALLEST = {"alpha": 0.05, "tasks": {"*": {"margin": 0.02}}}


def items(task: str, scores: Sequence[float], **changes: Any) -> list[ItemResult]:
    """One item a score, every field plausible; `changes` replaces fields of all of them."""
    made = [
        ItemResult(
            task=task,
            doc_id=i,
            doc_hash=digest(f"{task} {i}"),
            prompt_hash=digest(f"prompt {task} {i}"),
            target_hash=digest("target"),
            metric="acc",
            score=score,
            answer="A",
            gold="A",
            item_id=f"{task}-{i}",
            prompt=f"prompt {task} {i}",
        )
        for i, score in enumerate(scores)
    ]
    return [item._replace(**changes) for item in made]


def answers(n: int, right: Iterable[int]) -> list[float]:
    chosen = set(right)
    return [float(i in chosen) for i in range(n)]


@dataclass
class Model:
    """A model's evidence as it will be written; tests change what they are about."""

    name: str
    weight_digest: str
    suites: dict[str, dict[str, list[ItemResult]]]
    record: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] | None = field(default_factory=dict)

    def write(self, root: Path) -> Path:
        folder = root / "evidence" / self.name
        for suite, tasks in self.suites.items():
            place = folder / "evaluations" / suite
            place.mkdir(parents=True)
            sha256 = write_items(place / "items.parquet", [i for t in tasks.values() for i in t])
            record = self._record(suite, tasks, sha256)
            # Not write_record: some of these records hold NaN, which it rightly refuses.
            (place / "evaluation.json").write_text(record.model_dump_json())
        if self.verification is not None:
            path = folder / "verification" / "verification.json"
            write_record(path, self._verification(self.verification))
        return folder

    def _record(
        self, suite: str, tasks: dict[str, list[ItemResult]], items_sha256: str
    ) -> EvaluationRecord:
        values: dict[str, Any] = {
            "name": self.name,
            "weight_digest": self.weight_digest,
            "suite": suite,
            "suite_sha256": digest(suite),
            "code_digest": digest("code"),
            "engine": "transformers 5.19.0",
            "dtype": "bfloat16",
            "template_sha256": TEMPLATE,
            "tasks": tuple(self._result(task, scored) for task, scored in tasks.items()),
            "items_sha256": items_sha256,
        }
        return EvaluationRecord(**(values | self.record))

    def _result(self, task: str, scored: list[ItemResult]) -> TaskResult:
        mean = math.fsum(i.score for i in scored) / len(scored) if scored else 0.0
        values: dict[str, Any] = {
            "task": task,
            "metric": "acc",
            "higher_is_better": True,
            "items": len(scored),
            "value": mean,
            "stderr": None,
            "task_sha256": digest(task),
            "data_sha256": digest(f"data {task}"),
        }
        return TaskResult(**(values | self.result))

    def _verification(self, changes: dict[str, Any]) -> VerificationRecord:
        licence = LicenceDecision(
            family="Apache", spdx="Apache-2.0", use="x", allowed=True, source="x"
        )
        values: dict[str, Any] = {
            "name": self.name,
            "weight_digest": self.weight_digest,
            "code_digest": digest("code"),
            "policy_sha256": digest("policy"),
            "passed": True,
            "findings": (),
            "formats": {"safetensors": 1},
            "parameters": 1,
            "template_sha256": TEMPLATE,
            "licence": licence,
            "statement": "x",
        }
        return VerificationRecord(**(values | changes))


def models(
    candidate: Sequence[float], baseline: Sequence[float], task: str = "hellaswag"
) -> tuple[Model, Model]:
    return (
        Model("tuned", CANDIDATE, {"general": {task: items(task, candidate)}}),
        Model("base", BASELINE, {"general": {task: items(task, baseline)}}),
    )


def twins(n: int = 200) -> tuple[Model, Model]:
    """Two different models that answered the same `n` items alike."""
    return models(answers(n, range(n // 2)), answers(n, range(n // 2)))


def config(policy: dict[str, Any]) -> GateConfig:
    return GateConfig(
        name="tuned",
        baseline=Baseline(name="base", digest=BASELINE),
        policy_name="default",
        policy=GatePolicy.model_validate(policy),
        policy_sha256=digest("policy"),
        code_digest=digest("code"),
    )


def run(
    tmp_path: Path, candidate: Model, baseline: Model, policy: dict[str, Any] | None = None
) -> Verdict:
    folders = candidate.write(tmp_path), baseline.write(tmp_path)
    return gate(config(policy or SMALLEST), *folders, tmp_path / "verdict")
