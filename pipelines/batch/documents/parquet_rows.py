"""Rows of a Parquet file, each a document; found again by their number.

Row groups are streamed in batches, so that memory does not depend on the file. Columns of bytes,
and those that JSON cannot carry, are left out; dates, times and decimals reach the prompt as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.corpus_settings import Corpus
from pipelines.batch.documents.columns import row_document
from pipelines.batch.documents.document import Document, sorted_json
from pipelines.batch.documents.whole import too_large
from pipelines.batch.text import DocumentError
from pipelines.canonical import sha256_bytes
from pipelines.errors import ConfigError, CorpusUnreadable

MEDIA_TYPE = "application/vnd.apache.parquet"
_ROWS = 1024  # of one batch


class ParquetRows:
    """One Parquet file. Raises ConfigError for columns that lack or are not text."""

    def __init__(self, corpus: Corpus, stream: BinaryIO, path: str, name: str) -> None:
        self._corpus, self._path, self._name = corpus, path, name
        try:
            self._file = pq.ParquetFile(stream)
        except (pa.ArrowException, OSError) as error:
            raise CorpusUnreadable(name, f"not a Parquet file ({error})") from error
        self._check_columns()
        groups = (self._file.metadata.row_group(i) for i in range(self._file.num_row_groups))
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._columns = [field.name for field in self._file.schema_arrow if _carried(field.type)]
        self._window: list[dict[str, Any]] = []
        self._first = 0  # number of the window's first row
        self._batches: Iterator[Any] = iter(())

    def documents(self) -> Iterator[Document]:
        """Every row in order."""
        for number in range(self._starts[-1]):
            yield self.at(number)

    def at(self, number: int) -> Document:
        """One row; those that follow it in its row group are cheap."""
        if number < 0 or number >= self._starts[-1]:
            raise DocumentError("document_changed", f"gone: {self._starts[-1]} rows are left")
        behind = self._first + len(self._window)
        if not self._first <= number < behind:
            group = max(i for i, start in enumerate(self._starts[:-1]) if start <= number)
            if number < behind or self._starts[group] > self._first or not self._window:
                self._open(group)
            self._advance(number)
        value = self._window[number - self._first]
        prefix = f"{self._path}:" if self._path else ""
        place = (f"{prefix}row-{number + 1}", self._path, number)
        return self._document(value, place)

    def _document(self, value: dict[str, Any], place: tuple[str, str, int]) -> Document:
        plain = {key: _plain(cell) for key, cell in value.items()}
        sha256 = sha256_bytes(sorted_json(plain))
        text = value.get(self._corpus.text_column)
        limit = self._corpus.max_document_bytes
        if isinstance(text, str) and len(text) > limit:
            error = too_large(len(text), limit)
            return Document(*place, sha256, error=error, media_type=MEDIA_TYPE)
        return row_document(self._corpus, plain, place, sha256, MEDIA_TYPE)

    def _open(self, group: int) -> None:
        self._batches = self._file.iter_batches(
            batch_size=_ROWS, row_groups=[group], columns=self._columns, use_threads=False
        )
        self._window, self._first = [], self._starts[group]

    def _advance(self, number: int) -> None:
        while number >= self._first + len(self._window):
            self._first += len(self._window)
            try:
                self._window = next(self._batches).to_pylist()
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                fact = f"row {self._first} and those after it cannot be read ({error})"
                raise CorpusUnreadable(self._name, fact) from error

    def _check_columns(self) -> None:
        schema = self._file.schema_arrow
        for key, column in (("text_column", self._corpus.text_column),
                            ("id_column", self._corpus.id_column)):  # fmt: skip
            if column is None:
                continue
            if column not in schema.names:
                raise ConfigError(
                    self._name,
                    f"has no column {column!r} (its columns: {schema.names})",
                    f"Name one with corpus.{key}.",
                )
            kind = schema.field(column).type
            if not _is_text(kind) and not (key == "id_column" and pa.types.is_integer(kind)):
                raise ConfigError(
                    self._name, f"column {column!r} is {kind}, not text", f"Name another: {key}."
                )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _carried(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _carried(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_carried(kind.field(i).type) for i in range(kind.num_fields))
    simple = pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    return _is_text(kind) or bool(simple)


def _plain(cell: Any) -> Any:
    if cell is None or isinstance(cell, str | int | float | bool):
        return cell
    if isinstance(cell, list):
        return [_plain(part) for part in cell]
    if isinstance(cell, dict):
        return {key: _plain(part) for key, part in cell.items()}
    return str(cell)
