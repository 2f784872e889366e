"""A verdict as a page for people: which task, what was seen, what it could have shown."""

from __future__ import annotations

from pipelines.records import Outcome, TaskVerdict, Verdict

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
    "Superiority",
    "McNemar p",
)


def verdict_markdown(verdict: Verdict) -> str:
    """The verdict in Markdown: outcome, reasons, a table of tasks, each task in words, and digests.

    Differences are improvements (candidate minus baseline, more is better). The McNemar column is
    information: nothing is decided by it.
    """
    table = [_row(_HEADER), _row(["---"] * len(_HEADER)), *(_row(_cells(t)) for t in verdict.tasks)]
    return "\n".join(
        [
            f"## {verdict.name} against {verdict.baseline}: {_words(verdict.outcome)}",
            "",
            f"{_words(verdict.outcome)}: {MEANING[verdict.outcome]}.",
            "",
            *(f"- {reason}" for reason in verdict.reasons),
            "",
            *table,
            "",
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
        task.superiority,
        "< 0.001"
        if task.mcnemar_p is not None and task.mcnemar_p < 1e-3
        else _number(task.mcnemar_p),
    ]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _words(outcome: Outcome) -> str:
    return outcome.replace("_", " ")
