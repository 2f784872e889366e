"""The corpus: its documents in a fixed order, each read once, with bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Self

from pipelines.batch.corpus_settings import Corpus, Kind
from pipelines.batch.documents.bucket import BucketFiles
from pipelines.batch.documents.compression import (
    broken_as_document_error,
    decompressed,
    split_suffixes,
)
from pipelines.batch.documents.csv_rows import CsvRows
from pipelines.batch.documents.document import Document
from pipelines.batch.documents.extraction import Extractor
from pipelines.batch.documents.files import CorpusFiles, FolderFiles
from pipelines.batch.documents.lines import read_line_at, read_lines
from pipelines.batch.documents.parquet_rows import ParquetRows
from pipelines.batch.documents.whole import MEDIA_TYPES, Fetched, file_document
from pipelines.batch.job import is_s3
from pipelines.batch.text import DocumentError
from pipelines.errors import ConfigError, CorpusUnreadable, WrongKindOfPath

__all__ = ["CorpusReader", "Document", "read_documents"]

SUFFIXES: dict[Kind, frozenset[str]] = {
    "folder": frozenset(MEDIA_TYPES),
    "jsonl": frozenset({".jsonl", ".ndjson"}),
    "openai": frozenset({".jsonl", ".ndjson"}),
    "csv": frozenset({".csv", ".tsv"}),
    "parquet": frozenset({".parquet"}),
}


def read_documents(
    corpus: Corpus, ignored: Counter[str], *, text: bool = True
) -> Iterator[Document]:
    """Every document in its fixed order: paths by code point, rows as they stand.

    Files that are no documents are counted in `ignored`, by suffix. A document that cannot be
    read is yielded with its error. Without `text` files are not parsed: ids and digests are right,
    and some errors are not found. Raises WrongKindOfPath when the corpus is not where it should
    be, ConfigError when a folder in it cannot be listed or a table lacks a column, and
    CorpusUnreadable when the rest of a table cannot be.
    """
    with CorpusReader(corpus) as reader:
        documents = reader.documents(ignored, text)
        yield from documents if corpus.first is None else islice(documents, corpus.first)


class CorpusReader:
    """Reads a corpus in order, or planned documents again; close it, or use it as a context."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._files = _files(corpus)
        self._extractor = Extractor(corpus.read_timeout_s, corpus.max_document_bytes)
        self._open: _Table | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close files and end the process that reads PDF and Word documents."""
        self._extractor.close()
        if self._open is not None:
            self._open.close()
            self._open = None

    def documents(self, ignored: Counter[str], text: bool) -> Iterator[Document]:
        """As `read_documents`."""
        paths = self._files.paths(SUFFIXES[self._corpus.reading], ignored)
        if self._corpus.reading == "folder":
            limit = self._corpus.max_document_bytes
            for fetched in self._ahead(paths):
                yield file_document(fetched, self._extractor, limit, text)
            return
        for path in paths:
            with _opened_table(self._corpus, self._files, path) as table:
                yield from table.documents()

    def reread(self, path: str, offset: int, sha256: str, identity: str) -> Document:
        """One planned document again; DocumentError when its bytes are not those planned.

        Rows that follow each other are read as one stream.
        """
        try:
            document = self._reread(path, offset)
        except (OSError, CorpusUnreadable, ConfigError) as error:
            raise DocumentError("document_changed", f"gone: {error}") from error
        except DocumentError as error:
            raise DocumentError("document_changed", f"gone: {error}") from error
        if document.sha256 != sha256:
            fact = f"gone: {document.error}" if not document.sha256 else f"now {document.sha256}"
            raise DocumentError("document_changed", f"planned as {sha256}, {fact}")
        if document.error is not None:
            raise document.error
        if document.id != identity:  # named by its place, which one row alone does not tell
            return Document(
                identity, document.path, document.offset, sha256, document.fields,
                media_type=document.media_type, request=document.request,
            )  # fmt: skip
        return document

    def _reread(self, path: str, offset: int) -> Document:
        corpus = self._corpus
        if corpus.reading == "folder":
            fetched = Fetched(self._files, path, corpus.max_document_bytes)
            return file_document(fetched, self._extractor, corpus.max_document_bytes, text=True)
        if self._open is None or self._open.path != path:
            if self._open is not None:
                self._open.close()
                self._open = None
            self._open = _opened_table(corpus, self._files, path)
        return self._open.at(offset)

    def _ahead(self, paths: Iterator[str]) -> Iterator[Fetched]:
        """Files in order; from S3 several at a time, or the answers' delays would add up."""
        limit, streams = self._corpus.max_document_bytes, self._files.streams
        if streams == 1:
            yield from (Fetched(self._files, path, limit) for path in paths)
            return
        waiting: deque[Future[Fetched]] = deque()
        with ThreadPoolExecutor(streams, thread_name_prefix="corpus") as pool:
            for path in paths:
                waiting.append(pool.submit(Fetched, self._files, path, limit))
                if len(waiting) >= 2 * streams:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


class _Table:
    """An open table: its rows in order, or one at its offset."""

    def __init__(self, corpus: Corpus, stream: BinaryIO, path: str, name: str) -> None:
        self.path, self._corpus, self._stream, self._name = path, corpus, stream, name
        self._rows: CsvRows | ParquetRows | None = None
        with _whole(self._name):
            if corpus.reading == "csv":
                self._rows = CsvRows(corpus, stream, path, name)
            elif corpus.reading == "parquet":
                self._rows = ParquetRows(corpus, stream, path, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def documents(self) -> Iterator[Document]:
        with _whole(self._name):
            if self._rows is None:
                yield from read_lines(self._corpus, self._stream, self.path)
            else:
                yield from self._rows.documents()

    def at(self, offset: int) -> Document:
        with _whole(self._name):
            if self._rows is not None:
                return self._rows.at(offset)
            if self._stream.tell() != offset:
                self._stream.seek(offset)  # in what is compressed: on, or from the beginning
            return read_line_at(self._corpus, self._stream, self.path, offset)


@contextmanager
def _whole(name: str) -> Iterator[None]:
    """What breaks off a table's rows, as CorpusUnreadable: nobody knows how many are lost."""
    try:
        with broken_as_document_error(name):
            yield
    except DocumentError as error:
        raise CorpusUnreadable(name, str(error)) from error
    except OSError as error:
        raise CorpusUnreadable(name, error.strerror or str(error)) from error


def _files(corpus: Corpus) -> CorpusFiles:
    """Where the corpus lies; raises WrongKindOfPath when it is not there."""
    if is_s3(corpus.path):
        single = split_suffixes(corpus.path)[0] in SUFFIXES[corpus.reading] - SUFFIXES["folder"]
        return BucketFiles(corpus.path, single)
    path = Path(corpus.path)
    if corpus.reading == "folder" and not path.is_dir():
        raise WrongKindOfPath(path, "a folder of documents")
    if not path.exists():
        raise WrongKindOfPath(path, f"a {corpus.reading} file, or a folder of them")
    return FolderFiles(path)


def _opened_table(corpus: Corpus, files: CorpusFiles, path: str) -> _Table:
    name = files.name(path)
    try:
        stream, _ = files.open(path)
    except DocumentError as error:
        raise CorpusUnreadable(name, str(error)) from error
    return _Table(corpus, decompressed(stream, name), path, name)
