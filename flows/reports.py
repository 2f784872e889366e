"""What the flows leave to look at in the Prefect UI: artifacts, made from records.

A report never fails the work that it reports on: the records in the registry are the truth, and a
server that is away for a moment costs one artifact and one warning in the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.exceptions import PrefectException

from pipelines.canonical import Frozen
from pipelines.records import EvaluationRecord, Release, Verdict

Row = dict[str, str]
CandidateOutcome = Literal["promoted", "passed, not promoted", "refused"]


class Onboarded(Frozen):
    """What is known about one set of weights after verification and evaluation."""

    name: str
    weight_digest: str
    signed: bool
    evaluations: tuple[EvaluationRecord, ...] = ()


class CandidateReport(Frozen):
    """What became of one candidate, and why."""

    name: str
    outcome: CandidateOutcome
    reasons: tuple[str, ...]
    verdict: Verdict | None = None


class ReleaseReport(Frozen):
    """The end of a release: every candidate with its reasons, and what is in production now."""

    base: Onboarded
    candidates: tuple[CandidateReport, ...]
    release: Release | None
    batch_output: str = ""


def score_rows(records: Sequence[EvaluationRecord]) -> list[Row]:
    """One row a task."""
    return [
        {
            "model": record.name,
            "suite": record.suite,
            "task": task.task,
            "metric": task.metric,
            "value": f"{task.value:.3f}",
            "standard error": "" if task.stderr is None else f"{task.stderr:.3f}",
            "items": str(task.items),
        }
        for record in records
        for task in record.tasks
    ]


def candidates_markdown(
    line: str, candidates: Sequence[CandidateReport], release: Release | None
) -> str:
    """The table of verdicts with their reasons, and the comparison behind each verdict."""
    held = f"`{release.model}` as {release.version}" if release else "nothing new"
    lines = [
        f"# Release line {line}",
        "",
        f"Promoted: {held}.",
        "",
        "| candidate | outcome | reasons |",
        "| --- | --- | --- |",
        *(
            f"| {c.name} | {c.outcome} | {'<br>'.join(_cell(reason) for reason in c.reasons)} |"
            for c in candidates
        ),
    ]
    for candidate in candidates:
        if candidate.verdict is not None:
            lines += ["", f"## {candidate.name}", "", *_comparison(candidate.verdict)]
    return "\n".join(lines) + "\n"


def _comparison(verdict: Verdict) -> list[str]:
    lines = [
        f"Compared with {verdict.baseline} (`{verdict.baseline_digest[:12]}`) under policy "
        f"{verdict.policy}. The smallest margin is the finest loss that these items could have "
        "excluded.",
        "",
        "| task | outcome | items | baseline | candidate | difference | smallest margin |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task in verdict.tasks:
        low, high = task.interval
        smallest = "" if task.smallest_margin is None else f"{task.smallest_margin:.3f}"
        lines.append(
            f"| {task.task} | {task.outcome} | {task.items} | {task.baseline:.3f} "
            f"| {task.candidate:.3f} | {task.difference:+.3f} ({low:+.3f} to {high:+.3f}) "
            f"| {smallest} |"
        )
    return lines


def publish_markdown(key: str, markdown: str, description: str) -> None:
    """Leave a page in the UI under `key` (made to fit Prefect's rule for keys)."""
    with _best_effort(key):
        create_markdown_artifact(markdown, key=artifact_key(key), description=description)


def publish_table(key: str, rows: Sequence[Row], description: str) -> None:
    """Leave a table in the UI; all rows have the same columns."""
    with _best_effort(key):
        create_table_artifact(list(rows), key=artifact_key(key), description=description)


def publish_report(key: str, report: Path, description: str) -> None:
    """Leave a stage's report.md in the UI; a stage that wrote none leaves nothing."""
    if report.is_file():
        publish_markdown(key, report.read_text(encoding="utf-8"), description)


def artifact_key(text: str) -> str:
    """Lower-case letters, digits and hyphens, as Prefect asks of keys."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@contextmanager
def _best_effort(key: str) -> Iterator[None]:
    """Let a report fail alone, in the ways in which a server or the way to it can fail."""
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError) as error:
        get_run_logger().warning("the report %s was not stored: %s", key, error)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
