"""Checks of training data before a step is taken, with Great Expectations.

What is one row's own affair (parsing, roles, empty text) is settled in training_rows.py and the
chat template in training_tokens.py. Here the table as a whole is checked: its size first, because
an empty table has nothing that could fail, then every column. A rule counts the rows that fail it,
whatever it tolerates; `mostly` is not used, because it hides that number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.canonical import Frozen, write_bytes, write_record
from pipelines.errors import DatasetRefused
from pipelines.expectations import Expectation, run_expectations
from pipelines.recipe import Recipe
from pipelines.secret_patterns import SECRET_PATTERNS
from pipelines.training_rows import Row, listed
from pipelines.training_tokens import TokenisedRow

RESULTS_FILE = "results.json"
REPORT_FILE = "report.md"

Settings = dict[str, str | int | float | bool | tuple[str, ...] | None]


class RuleResult(Frozen):
    """One rule and how the data stood it. Values are not kept: they may be private."""

    rule: str
    expectation: str
    settings: Settings
    passed: bool
    tolerated: int
    failing: int
    failing_ids: tuple[str, ...] = ()
    observed: str = ""


class DataChecks(Frozen):
    """All results about one data set (origin/data_checks/results.json)."""

    kind: str = "data_checks"
    dataset_sha256: str
    rows: int
    passed: bool
    results: tuple[RuleResult, ...]
    tools: dict[str, str]


@dataclass(frozen=True)
class _Rule:
    """A rule in words, the expectation that tests it, and how many rows may fail."""

    text: str
    expectation: str
    settings: Settings
    tolerated: int = 0


def check_dataset(
    dataset: Path,
    dataset_sha256: str,
    recipe: Recipe,
    rows: Sequence[Row],
    tokenised: Sequence[TokenisedRow],
    out: Path,
) -> DataChecks:
    """Run every rule, write results.json and report.md into `out` (new), and return the results.

    `tokenised` runs parallel to `rows`. Raises DatasetRefused, naming the failing rows of every
    rule that does not pass; the report is written all the same.
    """
    if not rows:
        raise DatasetRefused(dataset, ["it holds no row"])
    rules = _rules(recipe)
    asked = [Expectation(rule.expectation, rule.settings, rule.text) for rule in rules]
    outcomes = run_expectations(asked, _columns(rows, tokenised), index="id")
    results = tuple(_result(rule, found) for rule, found in zip(rules, outcomes, strict=True))
    checks = DataChecks(
        dataset_sha256=dataset_sha256,
        rows=len(rows),
        passed=all(result.passed for result in results),
        results=results,
        tools={name: version(name) for name in ("great-expectations", "pandas")},
    )
    out.mkdir(parents=True)
    write_record(out / RESULTS_FILE, checks)
    write_bytes(out / REPORT_FILE, _report(dataset.name, checks).encode())
    if reasons := [_reason(result) for result in results if not result.passed]:
        raise DatasetRefused(dataset, reasons)
    return checks


def _columns(rows: Sequence[Row], tokenised: Sequence[TokenisedRow]) -> dict[str, list[Any]]:
    return {
        "id": [row.id for row in rows],
        "text": [row.text for row in rows],
        "shortest": [min(len(message.content) for message in row.messages) for row in rows],
        "licence": [row.licence.lower() or None for row in rows],
        "content_sha256": [row.content_sha256 for row in rows],
        "prompt_sha256": [row.prompt_sha256 for row in rows],
        "tokens": [row.tokens for row in tokenised],
        "answer_tokens": [row.answer_tokens for row in tokenised],
    }


def _rules(recipe: Recipe) -> tuple[_Rule, ...]:
    """The suite, in the order in which it is reported: row count and columns come first."""
    asked = recipe.checks
    columns = tuple(_columns([], []))
    allowed = tuple(sorted({licence.lower() for licence in asked.allowed_licences}))
    secrets = "no message holds what looks like a credential"
    rules = [
        _Rule(
            f"there are {asked.min_rows} to {asked.max_rows} rows",
            "ExpectTableRowCountToBeBetween",
            {"min_value": asked.min_rows, "max_value": asked.max_rows},
        ),
        _Rule(
            "the table has the columns that the rules test, and no other",
            "ExpectTableColumnsToMatchSet",
            {"column_set": columns, "exact_match": True},
        ),
        *(
            _Rule(f"every row has a {name}", "ExpectColumnValuesToNotBeNull", {"column": name})
            for name in ("id", "text", "licence")
        ),
        _Rule("ids are unique", "ExpectColumnValuesToBeUnique", {"column": "id"}),
        _Rule("contents are unique", "ExpectColumnValuesToBeUnique", {"column": "content_sha256"}),
        _Rule(
            f"a row has at most {asked.max_characters} characters",
            "ExpectColumnValueLengthsToBeBetween",
            {"column": "text", "min_value": 1, "max_value": asked.max_characters},
        ),
        _between("shortest", asked.min_characters, "a message has at least {} characters"),
        _Rule(
            f"the licence is one of {', '.join(asked.allowed_licences)}",
            "ExpectColumnValuesToBeInSet",
            {"column": "licence", "value_set": allowed},
        ),
        _Rule(
            secrets,
            "ExpectColumnValuesToNotMatchRegexList",
            {"column": "text", "regex_list": SECRET_PATTERNS},
        ),
        _Rule(
            f"a row has at most {recipe.max_tokens} tokens",
            "ExpectColumnValuesToBeBetween",
            {"column": "tokens", "min_value": 1, "max_value": recipe.max_tokens},
            asked.max_rows_too_long,
        ),
        _between(
            "answer_tokens",
            1,
            f"at least {{}} token of the answer lies within {recipe.max_length} tokens",
            asked.max_rows_without_loss,
        ),
    ]
    if asked.unique_prompts:
        text = "no prompt has two answers"
        rules.append(_Rule(text, "ExpectColumnValuesToBeUnique", {"column": "prompt_sha256"}))
    return tuple(rules)


def _between(column: str, least: int, text: str, tolerated: int = 0) -> _Rule:
    settings: Settings = {"column": column, "min_value": least}
    return _Rule(text.format(least), "ExpectColumnValuesToBeBetween", settings, tolerated)


def _result(rule: _Rule, found: Any) -> RuleResult:
    """What one expectation found. An expectation that could not be computed does not pass."""
    result: dict[str, Any] = found.result or {}
    failing = int(result.get("unexpected_count", 0 if found.success else 1))
    ids = {str(entry["id"]) for entry in result.get("unexpected_index_list") or ()}
    observed = result.get("observed_value", "")
    computed = "unexpected_count" in result or "observed_value" in result
    return RuleResult(
        rule=rule.text,
        expectation=rule.expectation,
        settings=rule.settings,
        passed=computed and (bool(found.success) or 0 < failing <= rule.tolerated),
        tolerated=rule.tolerated,
        failing=failing,
        failing_ids=tuple(sorted(ids)),
        observed=str(observed) if computed else "this rule could not be computed",
    )


def _reason(result: RuleResult) -> str:
    if not result.failing_ids:
        return f"rule '{result.rule}' fails: {result.observed or 'found otherwise'}"
    some = f" ({result.tolerated} tolerated)" if result.tolerated else ""
    return (
        f"rule '{result.rule}' fails for {result.failing} rows{some}: "
        f"{listed(list(result.failing_ids))}"
    )


def _report(name: str, checks: DataChecks) -> str:
    lines = [
        f"# Data checks: {name}\n",
        f"{checks.rows} rows, data set digest `{checks.dataset_sha256}`. "
        f"{'All rules hold.' if checks.passed else '**Refused.**'}\n",
        "| rule | failing | tolerated | holds | rows |",
        "|---|---|---|---|---|",
    ]
    for result in checks.results:
        holds = "yes" if result.passed else "**no**"
        ids = listed(list(result.failing_ids)).replace("|", "\\|") or result.observed
        lines.append(
            f"| {result.rule.replace('|', chr(92) + '|')} | {result.failing} | "
            f"{result.tolerated} | {holds} | {ids} |"
        )
    tools = ", ".join(f"{tool} {number}" for tool, number in checks.tools.items())
    lines.append(
        f"\nTested with {tools}. Not covered: near duplicates, language, toxicity, and rows that "
        "are also in an evaluation suite."
    )
    return "\n".join(lines) + "\n"
