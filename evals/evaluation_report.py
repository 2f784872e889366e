"""report.md of an evaluation: what was scored, task by task and slice by slice."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from evals.items import ItemResult
from pipelines.canonical import write_bytes
from pipelines.records import EvaluationRecord, TaskResult

ALL = "all"


def write_report(path: Path, record: EvaluationRecord, items: Sequence[ItemResult]) -> None:
    """Write the report of `record`; `items` are its items, in any order."""
    write_bytes(path, evaluation_report(record, items).encode())


def evaluation_report(record: EvaluationRecord, items: Sequence[ItemResult]) -> str:
    """The evaluation as Markdown, the same text for the same record and items."""
    head = [
        f"# {record.name} on {record.suite}",
        "",
        f"- weights: `{record.weight_digest}`",
        f"- suite: `{record.suite_sha256}`",
        f"- chat template: `{record.template_sha256 or 'none'}`",
        f"- engine: {record.engine}, {record.dtype}",
        "",
        "| task | metric | slice | items | value | standard error |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    rows = [row for result in record.tasks for row in _rows(result, items)]
    return "\n".join([*head, *rows, "", *_notes(record), ""])


def _rows(result: TaskResult, items: Sequence[ItemResult]) -> list[str]:
    stated = "n/a" if result.stderr is None else f"{result.stderr:.4f}"
    rows = [_row(result, ALL, result.items, result.value, stated)]
    slices: dict[str, list[float]] = defaultdict(list)
    for item in items:
        if item.task == result.task and item.slice:
            slices[item.slice].append(item.score)
    for name, scores in sorted(slices.items()):
        mean = math.fsum(scores) / len(scores)
        rows.append(_row(result, name, len(scores), mean, _stderr(scores, mean)))
    return rows


def _row(result: TaskResult, name: str, count: int, value: float, stderr: str) -> str:
    arrow = "higher is better" if result.higher_is_better else "lower is better"
    cells = [_cell(result.task), f"{_cell(result.metric)} ({arrow})", _cell(name), str(count)]
    return f"| {' | '.join([*cells, f'{value:.4f}', stderr])} |"


def _stderr(scores: Sequence[float], mean: float) -> str:
    """Standard error of a mean, s / sqrt(n) with s over n - 1: lm-eval's formula for a task."""
    if len(scores) < 2:
        return "n/a"
    variance = math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    return f"{math.sqrt(variance / len(scores)):.4f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _notes(record: EvaluationRecord) -> list[str]:
    smallest = min(result.items for result in record.tasks)
    return [
        f"The smallest task has {smallest} items. A difference between two models is for the gate "
        "to judge: it compares them item by item.",
    ]
