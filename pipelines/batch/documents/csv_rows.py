"""Rows of a CSV file, each a document; found again by their offset in (unpacked) bytes.

RFC 4180 with one line of column names. A quote that is never closed would make one row of all that
follows, so it refuses the corpus; other faults of a row are an error row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipelines.batch.corpus_settings import Corpus
from pipelines.batch.documents.columns import row_document
from pipelines.batch.documents.compression import split_suffixes
from pipelines.batch.documents.document import Document
from pipelines.batch.documents.whole import too_large
from pipelines.batch.text import DocumentError
from pipelines.canonical import sha256_bytes
from pipelines.errors import ConfigError, CorpusUnreadable

MEDIA_TYPE = "text/csv"
_UNCLOSED = "unexpected end of data"  # csv's words for a file that ends within quotes
_RECORD_BYTES = 1 << 28  # of one row, above which its end is no longer looked for


class CsvRows:
    """One CSV file; `names` are its columns. Raises ConfigError when those the job names lack."""

    def __init__(self, corpus: Corpus, stream: BinaryIO, path: str, name: str) -> None:
        self._corpus, self._stream, self._path, self._name = corpus, stream, path, name
        self._offset, self._record = 0, b""
        self._delimiter = corpus.delimiter or ("\t" if split_suffixes(name)[0] == ".tsv" else ",")
        csv.field_size_limit(_RECORD_BYTES)
        self._reader = self._reading()
        cells, error = self._next()
        self.names = [] if cells is None or error else cells
        wanted = {corpus.text_column, corpus.id_column} - {None}
        if cells is not None and (lack := sorted(str(c) for c in wanted - set(self.names))):
            raise ConfigError(
                name,
                f"has no column {', '.join(map(repr, lack))} (its columns: {self.names})",
                "Name its columns with corpus.text_column and corpus.id_column (or null).",
            )

    def documents(self) -> Iterator[Document]:
        """Every row from where the stream stands, in order."""
        number = 1
        while True:
            start = self._offset
            cells, error = self._next()
            if cells is None:
                return
            number += 1
            if cells or error:
                yield self._document(cells, error, start, number)

    def at(self, offset: int) -> Document:
        """The row that begins at a byte; the stream is moved there."""
        if offset != self._offset:
            self._stream.seek(offset)
            self._offset, self._reader = offset, self._reading()
        cells, error = self._next()
        return self._document(cells or [], error, offset, 0)

    def _reading(self) -> Any:
        return csv.reader(self._lines(), delimiter=self._delimiter, strict=True)

    def _lines(self) -> Iterator[str]:
        """Lines as csv asks for them, so that a row's bytes are those read since the last one."""
        while line := self._stream.readline(_RECORD_BYTES):
            self._record += line
            if len(self._record) > _RECORD_BYTES:
                raise CorpusUnreadable(self._name, self._unclosed())
            first = not self._offset and len(self._record) == len(line)
            data = line.removeprefix(b"\xef\xbb\xbf") if first else line
            yield data.decode("utf-8", "surrogateescape")

    def _next(self) -> tuple[list[str] | None, DocumentError | None]:
        """Cells of the next row (None at the end) and what is wrong with it."""
        self._record, error = b"", None
        try:
            cells: list[str] | None = next(self._reader, None)
        except csv.Error as caught:
            if str(caught) == _UNCLOSED:
                raise CorpusUnreadable(self._name, self._unclosed()) from caught
            cells, error = [], DocumentError("invalid_line", f"not CSV: {caught}")
        self._offset += len(self._record)
        return cells, error

    def _unclosed(self) -> str:
        return f"the row at byte {self._offset} opens a quote that is not closed"

    def _document(
        self, cells: list[str], error: DocumentError | None, start: int, number: int
    ) -> Document:
        data = self._record.rstrip(b"\r\n")
        sha256 = sha256_bytes(data)
        prefix = f"{self._path}:" if self._path else ""
        place = (f"{prefix}row-{number}", self._path, start)
        if error is None and len(data) > self._corpus.max_document_bytes:
            error = too_large(len(data), self._corpus.max_document_bytes)
        error = error or _fault(data) or _ragged(cells, self.names)
        if error is not None:
            return Document(place[0], place[1], start, sha256, error=error, media_type=MEDIA_TYPE)
        value = dict(zip(self.names, cells, strict=True))
        return row_document(self._corpus, value, place, sha256, MEDIA_TYPE)


def _fault(data: bytes) -> DocumentError | None:
    if b"\0" in data:
        return DocumentError("not_text", f"a zero byte at {data.index(0)} of the row")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        fact = f"byte {data[error.start]:#04x} at {error.start} of the row is not UTF-8"
        return DocumentError("invalid_utf8", fact)
    return None


def _ragged(cells: list[str], names: list[str]) -> DocumentError | None:
    if len(cells) == len(names):
        return None
    fact = f"{len(cells)} cells, and the first line names {len(names)} columns"
    return DocumentError("invalid_line", fact)
