"""Verdicts on the command line: what was decided, on what, and what it could have shown."""

from __future__ import annotations

from pathlib import Path

from flows import console
from pipelines.errors import NoVerdict, WeighbridgeError
from pipelines.records import SliceVerdict, TaskVerdict, Verdict

_COLUMNS = ("task", "outcome", "items", "difference", "interval", "margin", "smallest margin")


def judge_folders(candidate: Path, baseline: Path, policy: Path, json: bool) -> Verdict:
    """Decide from two folders of per-item results, without a registry and without a server.

    Raises ConfigError or WrongKindOfPath for the policy (exit 2), and NoVerdict (exit 3) where the
    folders cannot carry a verdict; with `json` a document that says so is printed first.
    """
    from evals.gate import gate_folders
    from evals.policy import load_policy

    load_policy(policy)
    try:
        return gate_folders(candidate, baseline, policy)
    except WeighbridgeError as error:
        if json:
            found = {"outcome": "unusable", "reasons": [str(error)]}
            console.show({"kind": "no verdict", "name": candidate.name, **found}, True, "")
        raise NoVerdict(str(error)) from error


def show_verdict(verdict: Verdict, json: bool) -> None:
    """Print a verdict: tables of tasks and slices, then every reason; or the record as JSON."""
    if json:
        console.show(verdict.model_dump(mode="json"), True, "")
        return
    title = f"{verdict.name} against {verdict.baseline}: {verdict.outcome.replace('_', ' ')}"
    tables = [_table(title, [(task.task, task) for task in verdict.tasks])]
    if verdict.slices:
        named = [(f"{part.task}, {part.key} {part.value}", part) for part in verdict.slices]
        tables.append(_table("Slices", named))
    console.print_tables(tables)
    for reason in verdict.reasons:
        print(f"- {reason}")


def _table(
    title: str, rows: list[tuple[str, TaskVerdict]] | list[tuple[str, SliceVerdict]]
) -> console.Table:
    return console.Table(
        title=title, columns=_COLUMNS, rows=tuple(_cells(name, row) for name, row in rows)
    )


def _cells(name: str, row: TaskVerdict | SliceVerdict) -> tuple[str, ...]:
    lower, upper = row.interval
    return (
        name,
        row.outcome.replace("_", " "),
        str(row.items),
        f"{row.difference:+.4f}",
        f"[{lower:+.4f}, {upper:+.4f}]",
        "" if row.margin is None else f"{row.margin:g}",
        "" if row.smallest_margin is None else f"{row.smallest_margin:.4f}",
    )
