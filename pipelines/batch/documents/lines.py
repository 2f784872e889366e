"""Lines of a JSONL file, each a document; found again by their offset in (unpacked) bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from pipelines.batch.corpus_settings import Corpus
from pipelines.batch.documents.columns import row_document
from pipelines.batch.documents.document import Document
from pipelines.batch.documents.whole import too_large
from pipelines.batch.text import DocumentError, decode
from pipelines.canonical import sha256_bytes

_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # more than 64 bits, perhaps: orjson would round it
_MEDIA_TYPE = "application/jsonl"


def read_lines(corpus: Corpus, stream: BinaryIO, path: str) -> Iterator[Document]:
    """Each line that is not blank; a line too large is passed over in pieces."""
    limit, number, offset = corpus.max_document_bytes, 0, 0
    prefix = f"{path}:" if path else ""
    while line := stream.readline(limit + 2):
        number += 1
        start, offset = offset, offset + len(line)
        if len(line) > limit + 1 and not line.endswith(b"\n"):
            sha256, size = _pass_over(stream, line)
            offset = start + size
            error, name = too_large(size, limit), f"{prefix}line-{number}"
            yield Document(name, path, start, sha256, error=error, media_type=_MEDIA_TYPE)
        elif not line.isspace():
            yield _parse(corpus, line, (f"{prefix}line-{number}", path, start))


def read_line_at(corpus: Corpus, stream: BinaryIO, path: str, offset: int) -> Document:
    """The document whose line begins where `stream` stands."""
    return _parse(corpus, stream.readline(corpus.max_document_bytes + 2), ("", path, offset))


def _pass_over(stream: BinaryIO, line: bytes) -> tuple[str, int]:
    """Read to the end of a line; its sha256 without the newline, and its size with it."""
    digest, size = hashlib.sha256(line), len(line)
    while piece := stream.readline(1 << 20):
        size += len(piece)
        digest.update(piece.rstrip(b"\n"))
        if piece.endswith(b"\n"):
            break
    return digest.hexdigest(), size


def _parse(corpus: Corpus, line: bytes, place: tuple[str, str, int]) -> Document:
    """A line's document; one without a usable id goes by its number."""
    data = line.rstrip(b"\r\n")
    sha256 = sha256_bytes(data)
    try:
        value = _value(data)
    except DocumentError as error:
        identity, path, offset = place
        return Document(identity, path, offset, sha256, error=error, media_type=_MEDIA_TYPE)
    return row_document(corpus, value, place, sha256, _MEDIA_TYPE)


def _value(data: bytes) -> Any:
    if not _LONG_NUMBER.search(data):
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            pass  # the standard library knows why, or is more forgiving
    try:
        return json.loads(decode(data))
    except (ValueError, RecursionError) as error:
        raise DocumentError("invalid_line", f"not JSON: {error}") from error
