"""The corpus: its documents in a fixed order, each read once, with bounded memory."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.batch.job import Corpus
from pipelines.batch.text import DocumentError, check_text, decode, html_text
from pipelines.canonical import sha256_bytes, sha256_file
from pipelines.errors import ConfigError, WrongKindOfPath

TEXT_SUFFIXES = {".txt", ".md", ".markdown"}
HTML_SUFFIXES = {".html", ".htm"}


@dataclass(frozen=True, slots=True)
class Document:
    """One document: who it is, where it lies, and its fields or the reason why there are none."""

    id: str
    path: str  # relative to the corpus folder as the system names it; '' for a corpus file
    offset: int  # in bytes, where its line begins; 0 for whole files
    sha256: str  # of the file's or line's own bytes; '' when they cannot be read
    fields: dict[str, Any] = field(default_factory=dict)
    error: DocumentError | None = None

    @property
    def text(self) -> str:
        """The text that is chunked."""
        return str(self.fields["text"])

    def content_sha256(self) -> str:
        """sha256 over all fields but the id: equal for documents that ask the same."""
        return sha256_bytes(json.dumps(self.fields, sort_keys=True).encode())


def read_documents(corpus: Corpus, ignored: Counter[str]) -> Iterator[Document]:
    """Every document in its fixed order: paths by code point, lines as they stand.

    Files that are no documents are counted in `ignored`, by suffix. A document that cannot be
    read is yielded with its error. Raises WrongKindOfPath when the corpus is not where it should
    be, and ConfigError when a folder in it cannot be listed.
    """
    if corpus.kind == "folder":
        if not corpus.path.is_dir():
            raise WrongKindOfPath(corpus.path, "a folder of documents")
        for path in _walk(corpus.path, "", ignored):
            yield _read_file(corpus, path)
    else:
        if not corpus.path.is_file():
            raise WrongKindOfPath(corpus.path, "a .jsonl file")
        yield from _read_lines(corpus)


def reread(corpus: Corpus, path: str, offset: int, sha256: str) -> Document:
    """One planned document again; raises DocumentError when its bytes are not those planned."""
    if corpus.kind == "folder":
        document = _read_file(corpus, path)
    else:
        try:
            with (corpus.path / path).open("rb") as file:
                file.seek(offset)
                document = _parse_line(corpus, file.readline(), offset, 0)
        except OSError as error:
            raise DocumentError("document_changed", f"gone: {error.strerror}") from error
    if document.sha256 != sha256:
        fact = f"gone: {document.error}" if not document.sha256 else f"now {document.sha256}"
        raise DocumentError("document_changed", f"planned as {sha256}, {fact}")
    if document.error is not None:
        raise document.error
    return document


def _walk(folder: Path, prefix: str, ignored: Counter[str]) -> Iterator[str]:
    """Relative paths of documents, sorted as whole paths: a folder sorts as its name with '/'."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise ConfigError(
            folder, f"cannot be listed ({error.strerror})", "Every folder of a corpus must be."
        ) from error
    named = [(e.name + "/" if e.is_dir() else e.name, e) for e in entries]
    for name, entry in sorted(named, key=lambda pair: pair[0]):
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith("."):
            ignored["hidden"] += 1
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), prefix + name, ignored)
        elif entry.is_dir():
            ignored["linked folder"] += 1
        elif suffix in TEXT_SUFFIXES | HTML_SUFFIXES:
            yield prefix + name
        else:
            ignored[suffix or "no suffix"] += 1


def _read_file(corpus: Corpus, path: str) -> Document:
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    identity, source = unicodedata.normalize("NFC", name), corpus.path / path
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError("unreadable", "not a regular file")
        if status.st_size > corpus.max_document_bytes:
            error = _too_large(status.st_size, corpus)
            return Document(identity, path, 0, sha256_file(source), error=error)
        data = source.read_bytes()
    except OSError as error:
        problem = DocumentError("unreadable", error.strerror or str(error))
        return Document(identity, path, 0, "", error=problem)
    except DocumentError as error:
        return Document(identity, path, 0, "", error=error)
    sha256 = sha256_bytes(data)
    try:
        text = decode(data)
        if os.path.splitext(path)[1].lower() in HTML_SUFFIXES:
            text = html_text(text)
        fields = {"text": _not_empty(text)}
    except DocumentError as error:
        return Document(identity, path, 0, sha256, error=error)
    return Document(identity, path, 0, sha256, fields)


def _read_lines(corpus: Corpus) -> Iterator[Document]:
    """Each line of a .jsonl file that is not blank; a line too large is passed over in pieces."""
    limit = corpus.max_document_bytes
    with corpus.path.open("rb") as file:
        number, offset = 0, 0
        while line := file.readline(limit + 2):
            number += 1
            start, offset = offset, offset + len(line)
            if len(line) > limit + 1 and not line.endswith(b"\n"):
                sha256, size = _pass_over(file, line)
                offset = start + size
                error = _too_large(size, corpus)
                yield Document(f"line-{number}", "", start, sha256, error=error)
            elif line.strip():
                yield _parse_line(corpus, line, start, number)


def _pass_over(file: BinaryIO, line: bytes) -> tuple[str, int]:
    """Read to the end of a line; its sha256 without the newline, and its size with it."""
    digest, size = hashlib.sha256(line), len(line)
    while piece := file.readline(1 << 20):
        size += len(piece)
        digest.update(piece.rstrip(b"\n"))
        if piece.endswith(b"\n"):
            break
    return digest.hexdigest(), size


def _parse_line(corpus: Corpus, line: bytes, offset: int, number: int) -> Document:
    """A line's document; one without a usable id goes by its number."""
    data = line.removesuffix(b"\n").removesuffix(b"\r")
    sha256, identity = sha256_bytes(data), f"line-{number}"
    try:
        try:
            value = json.loads(decode(data))
        except (ValueError, RecursionError) as error:
            raise DocumentError("invalid_line", f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DocumentError("invalid_line", "not a JSON object")
        identity = _identity(value.get(corpus.id_column), corpus.id_column)
        text = value.get(corpus.text_column)
        if not isinstance(text, str):
            raise DocumentError("missing_field", f"no text under {corpus.text_column!r}")
        other = {k: v for k, v in value.items() if k not in (corpus.id_column, corpus.text_column)}
        fields = {**other, "text": _not_empty(check_text(text))}
    except DocumentError as error:
        return Document(identity, "", offset, sha256, error=error)
    return Document(identity, "", offset, sha256, fields)


def _identity(value: object, column: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DocumentError("invalid_line", f"no id (text or a whole number) under {column!r}")
    try:
        return check_text(str(value))
    except DocumentError as error:
        raise DocumentError("invalid_line", f"the id holds {error}") from error


def _not_empty(text: str) -> str:
    if not text.strip():
        raise DocumentError("empty", "no text in it")
    return text


def _too_large(size: int, corpus: Corpus) -> DocumentError:
    return DocumentError(
        "too_large", f"{size} bytes, more than max_document_bytes ({corpus.max_document_bytes})"
    )
