"""report.md of an evaluation: what was scored, task by task and slice by slice."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from evals.contamination import ContaminationRecord
from evals.items import ItemResult
from evals.suite_runs import standard_error
from pipelines.canonical import write_bytes
from pipelines.records import EvaluationRecord, TaskResult

ALL = "all"
LISTED = 10  # overlapping items that the report names; contamination.json names all


def write_report(
    path: Path,
    record: EvaluationRecord,
    items: Sequence[ItemResult],
    overlap: ContaminationRecord,
) -> None:
    """Write the report of `record`; `items` are its items, in any order."""
    write_bytes(path, evaluation_report(record, items, overlap).encode())


def evaluation_report(
    record: EvaluationRecord, items: Sequence[ItemResult], overlap: ContaminationRecord
) -> str:
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
    return "\n".join([*head, *rows, "", *_notes(record), "", *contamination_lines(overlap), ""])


def contamination_lines(overlap: ContaminationRecord) -> list[str]:
    """What training data and suite have in common, as Markdown."""
    if not overlap.training_sets:
        return ["Overlap with training data: not known, these weights were not tuned here."]
    names = ", ".join(f"{seen.name} ({seen.rows} rows)" for seen in overlap.training_sets)
    lines = [f"Overlap with training data, {overlap.words} words in a row, in {names}:", ""]
    for task in overlap.tasks:
        named = ", ".join(list(task.overlapping)[:LISTED])
        more = ", …" if len(task.overlapping) > LISTED else ""
        items = f"{len(task.overlapping)} of {task.items} items ({100 * task.share:.1f} %)"
        short = f"; {task.short_items} short ones looked for whole" if task.short_items else ""
        lines.append(f"- {task.task}: {items}{short}{f': {named}{more}' if named else ''}")
    return lines


def _rows(result: TaskResult, items: Sequence[ItemResult]) -> list[str]:
    stated = "n/a" if result.stderr is None else f"{result.stderr:.4f}"
    rows = [_row(result, ALL, result.items, result.value, stated)]
    slices: dict[str, list[float]] = defaultdict(list)
    for item in items:
        if item.task == result.task:
            for field, value in item.slices.items():
                slices[f"{field}: {value}"].append(item.score)
    for name, scores in sorted(slices.items()):
        mean = math.fsum(scores) / len(scores)
        error = standard_error(scores)
        stated = "n/a" if error is None else f"{error:.4f}"
        rows.append(_row(result, name, len(scores), mean, stated))
    return rows


def _row(result: TaskResult, name: str, count: int, value: float, stderr: str) -> str:
    arrow = "higher is better" if result.higher_is_better else "lower is better"
    cells = [_cell(result.task), f"{_cell(result.metric)} ({arrow})", _cell(name), str(count)]
    return f"| {' | '.join([*cells, f'{value:.4f}', stderr])} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _notes(record: EvaluationRecord) -> list[str]:
    smallest = min(result.items for result in record.tasks)
    return [
        f"The smallest task has {smallest} items. A difference between two models is for the gate "
        "to judge: it compares them item by item.",
        *(line for result in record.tasks for line in _at_an_end(result)),
        *_weighted_mean(record.tasks),
    ]


def _at_an_end(result: TaskResult) -> list[str]:
    """A task that all items pass, or none, shows a loss or a gain only, and the reader is told."""
    if result.value not in (0.0, 1.0):
        return []
    what = "every item scores 1" if result.value else "every item scores 0"
    return ["", f"{result.task}: {what}. It cannot tell models apart that are beyond its range."]


def _weighted_mean(results: Sequence[TaskResult]) -> list[str]:
    """A summary to read where all tasks point one way; an average can hide a collapse."""
    if len(results) < 2 or len({result.higher_is_better for result in results}) > 1:
        return []
    total = math.fsum(result.weight for result in results)
    mean = math.fsum(result.weight * result.value for result in results) / total
    return ["", f"Weighted mean of the tasks: {mean:.4f}. No verdict rests on it."]
