"""A table of questions, from CSV or JSON Lines, read strictly: each row keeps its line number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import SuiteRefused, WrongKindOfPath

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")


class TableRow(NamedTuple):
    """One row; `line` is where it begins in the file, from 1."""

    line: int
    cells: Mapping[str, Any]


class QuestionTable(NamedTuple):
    """Rows that all have the same columns, in the file's order."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def read_table(path: Path) -> QuestionTable:
    """Read a .csv, .tsv or .jsonl file in UTF-8.

    Raises WrongKindOfPath when there is none, and SuiteRefused, with the lines, when it is of
    another kind, not UTF-8, empty, has one item only, or rows that do not fit the columns.
    """
    if not path.is_file():
        raise WrongKindOfPath(path, "a file of questions (.csv, .tsv or .jsonl)")
    suffix = path.suffix.lower()
    if suffix not in (*_SEPARATORS, *_JSON_LINES):
        raise SuiteRefused(path, ["it is neither .csv nor .tsv nor .jsonl"])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SuiteRefused(path, [f"byte {error.start} is not UTF-8"]) from error
    if suffix in _JSON_LINES:
        table = _read_json_lines(path, text)
    else:
        table = _read_separated(path, text, _SEPARATORS[suffix])
    if not table.rows:
        raise SuiteRefused(path, ["it holds no items"])
    if len(table.rows) == 1:
        raise SuiteRefused(path, ["it holds one item, and one item shows nothing"])
    return table


def _read_json_lines(path: Path, text: str) -> QuestionTable:
    rows, facts = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            facts.append(f"line {number} is not JSON ({error})")
            continue
        if isinstance(cells, dict):
            rows.append(TableRow(number, cells))
        else:
            facts.append(f"line {number} is not a JSON object")
    columns = tuple(rows[0].cells) if rows else ()
    facts += [
        f"line {row.line} has the keys {', '.join(row.cells)}, the first item {', '.join(columns)}"
        for row in rows
        if set(row.cells) != set(columns)
    ]
    if facts:
        raise SuiteRefused(path, facts)
    return QuestionTable(path, columns, tuple(rows))


def _read_separated(path: Path, text: str, separator: str) -> QuestionTable:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, facts = [], []
    columns: tuple[str, ...] = ()
    begins = 1
    try:
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = tuple(cell.strip() for cell in cells)
            elif len(cells) == len(columns):
                rows.append(TableRow(line, dict(zip(columns, cells, strict=True))))
            else:
                facts.append(f"line {line} has {len(cells)} cells, the head {len(columns)}")
    except csv.Error as error:
        raise SuiteRefused(path, [f"line {reader.line_num}: {error}"]) from error
    if len(set(columns)) != len(columns) or not all(columns):
        facts.insert(0, "line 1, the head, must name every column, each differently")
    if facts:
        raise SuiteRefused(path, facts)
    return QuestionTable(path, columns, tuple(rows))
