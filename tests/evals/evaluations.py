"""Evaluation folders as `score` writes them, made from scores: no model runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.items import ItemResult, write_items
from pipelines.canonical import sha256_bytes, write_record
from pipelines.records import EvaluationRecord, TaskResult


def items(scores: Sequence[float], **changes: Any) -> list[ItemResult]:
    """One item of task 'one' a score; `changes` replaces fields of all of them."""
    made = [
        ItemResult(
            task="one",
            doc_id=n,
            doc_hash=sha256_bytes(f"d{n}".encode()),
            prompt_hash=sha256_bytes(f"p{n}".encode()),
            target_hash=sha256_bytes(b"t"),
            metric="acc",
            score=score,
            answer="A" if score else "B",
            gold="A",
            item_id=f"item-{n}",
            prompt=f"Question {n}?",
            outputs=(-0.5, -1.5),
        )
        for n, score in enumerate(scores)
    ]
    return [item._replace(**changes) for item in made]


def write_evaluation(folder: Path, results: Sequence[ItemResult], **changes: Any) -> Path:
    """Write evaluation.json and items.parquet; `changes` replaces fields of the record."""
    folder.mkdir(parents=True)
    record = EvaluationRecord(
        name="control",
        weight_digest="a" * 64,
        suite="smoke",
        suite_sha256="b" * 64,
        code_digest="c" * 64,
        engine="transformers 5.19.0 on cpu",
        dtype="bfloat16",
        template_sha256="",
        tasks=(
            TaskResult(
                task="one",
                metric="acc",
                higher_is_better=True,
                items=len(results),
                value=sum(item.score for item in results) / len(results),
                stderr=None,
                task_sha256="d" * 64,
                data_sha256="e" * 64,
            ),
        ),
        items_sha256=write_items(folder / "items.parquet", results),
        versions={"transformers": "5.19.0", "torch": "2.13.0"},
    )
    write_record(folder / "evaluation.json", record.model_copy(update=changes))
    return folder
