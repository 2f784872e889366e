"""Expectations about the rows of a finished job, before anybody builds on them.

The file is a suite of Great Expectations as that library writes it (`type` and `kwargs`), in YAML
or JSON; columns are those of the shards. An expectation that cannot be computed does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines.batch.finished import Finished
from pipelines.canonical import Frozen, sha256_file
from pipelines.errors import ExpectationsFailed
from pipelines.expectations import Expectation, run_expectations
from pipelines.models_file import load_yaml, parse_config

_IDS_NAMED = 20
_COLUMN_KEYS = ("column", "column_A", "column_B", "column_list")


class AskedExpectation(Frozen):
    """One expectation, in the words of Great Expectations' own files."""

    type: str = Field(pattern=r"^expect_[a-z_]+$")
    kwargs: dict[str, Any] = {}
    meta: dict[str, Any] = {}

    @property
    def class_name(self) -> str:
        """expect_column_values_to_be_unique is the class ExpectColumnValuesToBeUnique."""
        return "".join(word.capitalize() for word in self.type.split("_"))

    def columns(self) -> set[str]:
        """The columns that it names."""
        named = [self.kwargs.get(key) for key in _COLUMN_KEYS]
        flat = [value if isinstance(value, list) else [value] for value in named]
        return {str(column) for values in flat for column in values if column is not None}


class ExpectationFile(Frozen):
    """A suite of expectations."""

    name: str = ""
    meta: dict[str, Any] = {}
    expectations: tuple[AskedExpectation, ...] = Field(min_length=1)


class CheckedExpectation(Frozen):
    """One expectation and how the rows stood it. Values are not kept: they may be private."""

    type: str
    kwargs: dict[str, Any]
    holds: bool
    failing: int
    failing_ids: tuple[str, ...] = Field(description="ids of the first failing rows")
    observed: str


class RowChecks(Frozen):
    """checks.json: what the rows of one job were held against."""

    kind: Literal["row_checks"] = "row_checks"
    job_id: str
    rows: int
    expectations_sha256: str
    results: tuple[CheckedExpectation, ...]
    tools: dict[str, str]


def check_rows(job: Finished, file: Path) -> RowChecks:
    """Hold a finished job's rows against the expectations in `file`.

    Only the columns that expectations name are in memory. Raises ConfigError for a file that is no
    suite, ExpectationsFailed with every expectation that does not hold, OutputDamaged for a shard
    that is not what the manifest names.
    """
    asked = parse_config(file, ExpectationFile, load_yaml(file)).expectations
    named = {column for expectation in asked for column in expectation.columns()}
    if any("table_column" in expectation.type for expectation in asked):
        columns = job.columns(None)
    else:
        columns = job.columns({"id", *named})
    found = run_expectations(
        [Expectation(e.class_name, e.kwargs, str(file)) for e in asked], columns, index="id"
    )
    checks = RowChecks(
        job_id=job.manifest.job_id,
        rows=job.manifest.rows,
        expectations_sha256=sha256_file(file),
        results=tuple(_result(e, result) for e, result in zip(asked, found, strict=True)),
        tools={name: version(name) for name in ("great-expectations", "pandas")},
    )
    if reasons := [_reason(result) for result in checks.results if not result.holds]:
        raise ExpectationsFailed(job.store.location, reasons)
    return checks


def _result(asked: AskedExpectation, found: Any) -> CheckedExpectation:
    result: Mapping[str, Any] = found.result or {}
    computed = "unexpected_count" in result or "observed_value" in result
    ids = sorted({str(entry["id"]) for entry in result.get("unexpected_index_list") or ()})
    observed = str(result.get("observed_value", "")) if computed else "it could not be computed"
    return CheckedExpectation(
        type=asked.type,
        kwargs=asked.kwargs,
        holds=computed and bool(found.success),
        failing=int(result.get("unexpected_count", 0)),
        failing_ids=tuple(ids[:_IDS_NAMED]),
        observed=observed,
    )


def _reason(result: CheckedExpectation) -> str:
    settings = ", ".join(f"{key}={value!r}" for key, value in result.kwargs.items())
    ids = f": {', '.join(result.failing_ids[:5])}" if result.failing_ids else ""
    fact = f"{result.failing} rows fail{ids}" if result.failing else result.observed
    return f"{result.type}({settings}) does not hold ({fact})"
