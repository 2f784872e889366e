"""A verdict as a page for people: which task, what was seen, what it could have shown."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.records import Outcome, SliceVerdict, TaskVerdict, Verdict

MEANING: dict[Outcome, str] = {
    "pass": "everything that the policy asks was shown",
    "block": "harm was shown, or something that the policy asks was not",
    "cannot_tell": "these items cannot show what the policy asks; more items can",
}
_HEADER = (
    "Task",
    "Outcome",
    "Items",
    "Candidate",
    "Baseline",
    "Difference [interval]",
    "Margin",
    "Smallest margin",
    "Equal passes at",
    "Superiority",
    "McNemar p",
)
_SLICES = (
    "Task",
    "Slice",
    "Outcome",
    "Items",
    "Candidate",
    "Baseline",
    "Difference [interval]",
    "Margin",
    "Smallest margin",
    "Harm p (Holm)",
)


def verdict_markdown(verdict: Verdict) -> str:
    """The verdict in Markdown: outcome, reasons, a table of tasks, each task in words, and digests.

    Differences are improvements (candidate minus baseline, more is better). The McNemar column is
    information: nothing is decided by it. "Smallest margin" is the finest loss that these items
    could have excluded; at "equal passes at", an equal candidate passes in 80 % of cases.
    """
    return "\n".join(
        [
            f"## {verdict.name} against {verdict.baseline}: {_words(verdict.outcome)}",
            "",
            f"{_words(verdict.outcome)}: {MEANING[verdict.outcome]}.",
            "",
            *(f"- {reason}" for reason in verdict.reasons),
            "",
            *_table(_HEADER, [_cells(task) for task in verdict.tasks]),
            "",
            *_slices(verdict.slices),
            *(f"- **{task.task}**: {task.reason}" for task in verdict.tasks),
            "",
            f"Candidate weights `{verdict.weight_digest}`, baseline weights "
            f"`{verdict.baseline_digest}`, policy {verdict.policy} `{verdict.policy_sha256}`.",
            "",
        ]
    )


def _cells(task: TaskVerdict) -> list[str]:
    lower, upper = task.interval
    return [
        task.task,
        _words(task.outcome),
        str(task.items),
        f"{task.candidate:.3f}",
        f"{task.baseline:.3f}",
        f"{task.difference:+.3f} [{lower:+.3f}, {upper:+.3f}]",
        _number(task.margin),
        _number(task.smallest_margin),
        _number(task.detectable_margin),
        task.superiority,
        _p_value(task.mcnemar_p),
    ]


def _slices(slices: Sequence[SliceVerdict]) -> list[str]:
    if not slices:
        return []
    return ["### Slices", "", *_table(_SLICES, [_slice_cells(part) for part in slices]), ""]


def _slice_cells(part: SliceVerdict) -> list[str]:
    lower, upper = part.interval
    return [
        part.task,
        f"{part.key} {part.value}",
        _words(part.outcome),
        str(part.items),
        f"{part.candidate:.3f}",
        f"{part.baseline:.3f}",
        f"{part.difference:+.3f} [{lower:+.3f}, {upper:+.3f}]",
        _number(part.margin),
        _number(part.smallest_margin),
        _p_value(part.harm_p),
    ]


def _table(header: Sequence[str], rows: Sequence[list[str]]) -> list[str]:
    return [_row(list(header)), _row(["---"] * len(header)), *map(_row, rows)]


def _p_value(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 1e-3 else _number(value)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _words(outcome: Outcome) -> str:
    return outcome.replace("_", " ")
