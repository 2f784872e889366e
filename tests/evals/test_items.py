"""Per-item results are the same bytes for the same results."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.items import ItemResult, read_items, write_items
from pipelines.canonical import sha256_file
from pipelines.errors import UnusableEvidence, WrongKindOfPath

ITEMS = [
    ItemResult(
        task,
        doc,
        "d" * 64,
        "p" * 64,
        "t" * 64,
        "acc",
        doc / 2,
        "A",
        "B",
        f"{task}-{doc}",
        "Is it?",
        {"part": "first"},
        f"c{doc % 2}",
        (-1.5, -0.25),
    )
    for task in ("one", "two")
    for doc in range(3)
]


def test_items_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    assert write_items(path, reversed(ITEMS)) == sha256_file(path)
    assert read_items(path) == ITEMS


def test_the_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    first = write_items(tmp_path / "a.parquet", ITEMS)
    assert write_items(tmp_path / "b.parquet", ITEMS[::-1]) == first


def test_missing_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath):
        read_items(tmp_path / "items.parquet")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"task": ["one"], "score": [1.0]}), path)
    with pytest.raises(UnusableEvidence, match="columns are task, score"):
        read_items(path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    path.write_text("nothing")
    with pytest.raises(UnusableEvidence, match="not Parquet"):
        read_items(path)
