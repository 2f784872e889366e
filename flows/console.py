"""What the command line prints: text for people, or one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pipelines.canonical import Frozen


class Table(Frozen):
    """A table to print: every row has one cell per column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def complain(message: str) -> None:
    """Print one error on standard error."""
    print(f"weighbridge: {message}", file=sys.stderr)


def note(message: str) -> None:
    """Print what is happening on standard error, so that --json stays one document."""
    print(message, file=sys.stderr, flush=True)


def show(data: Any, as_json: bool, text: str) -> None:
    """Print `text`, or `data` as JSON."""
    print(json.dumps(data, indent=1, ensure_ascii=False) if as_json else text)


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], data: Any, as_json: bool
) -> None:
    """Print one table, or `data` as JSON."""
    if as_json:
        show(data, True, "")
        return
    print_tables([Table(title=title, columns=tuple(columns), rows=tuple(map(tuple, rows)))])


def show_tables(tables: Sequence[Table], as_json: bool) -> None:
    """Print tables; as JSON, an object of title to a list of objects."""
    if as_json:
        data = {t.title: [dict(zip(t.columns, row, strict=True)) for row in t.rows] for t in tables}
        show(data, True, "")
        return
    print_tables(tables)


def print_tables(tables: Sequence[Table]) -> None:
    """Draw tables with rich, at full width where nobody looks at a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for table in tables:
        drawn = RichTable(title=table.title, title_justify="left", show_lines=False)
        for column in table.columns:
            drawn.add_column(column, overflow="fold")
        for row in table.rows:
            drawn.add_row(*(escape(cell) for cell in row))
        out.print(drawn)
