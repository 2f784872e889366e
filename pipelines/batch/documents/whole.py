"""A file that is one document: its bytes, its text, or the reason why there is none."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from typing import BinaryIO

from pipelines.batch.documents.compression import (
    broken_as_document_error,
    decompressed,
    split_suffixes,
)
from pipelines.batch.documents.document import Document
from pipelines.batch.documents.extraction import Extractor
from pipelines.batch.documents.files import CorpusFiles
from pipelines.batch.text import DocumentError, decode, html_text, not_empty
from pipelines.canonical import READ_SIZE_BYTES, sha256_bytes

MEDIA_TYPES = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}


class Fetched:
    """A file's bytes as they lie there (none where it is too large), their sha256, or an error."""

    def __init__(self, files: CorpusFiles, path: str, max_bytes: int) -> None:
        self.path, self.sha256, self.data = path, "", b""
        self.error: DocumentError | None = None
        try:
            stream, size = files.open(path)
            with stream:
                if size > max_bytes:
                    self.sha256 = _digest(stream)
                    self.error = too_large(size, max_bytes)
                    return
                self.data = stream.read()
                self.sha256 = sha256_bytes(self.data)
        except DocumentError as error:
            self.error = error
        except OSError as error:
            self.error = DocumentError("unreadable", error.strerror or str(error))


def file_document(fetched: Fetched, extractor: Extractor, max_bytes: int, text: bool) -> Document:
    """The document of a file; without `text`, only what tells whether it is the one planned."""
    path = fetched.path
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    identity = unicodedata.normalize("NFC", name)
    suffix = split_suffixes(path)[0]
    media_type, error = MEDIA_TYPES.get(suffix, ""), fetched.error
    if error is None and not text:
        return Document(identity, path, 0, fetched.sha256, media_type=media_type)
    if error is None:
        try:
            fields = {"text": _text(fetched.data, path, suffix, extractor, max_bytes)}
            return Document(identity, path, 0, fetched.sha256, fields, media_type=media_type)
        except DocumentError as caught:
            error = caught
    return Document(identity, path, 0, fetched.sha256, error=error, media_type=media_type)


def too_large(size: int, max_bytes: int) -> DocumentError:
    """The error of a document of `size` bytes."""
    fact = f"{size} bytes, more than max_document_bytes ({max_bytes})"
    return DocumentError("too_large", fact)


def _text(data: bytes, path: str, suffix: str, extractor: Extractor, max_bytes: int) -> str:
    data = _unpacked(data, path, max_bytes)
    if suffix in (".pdf", ".docx"):
        return not_empty(extractor.text(suffix, data))
    text = decode(data)
    return not_empty(html_text(text) if suffix in (".html", ".htm") else text)


def _unpacked(data: bytes, path: str, max_bytes: int) -> bytes:
    """What is in a compressed file; at most `max_bytes` of it is ever held."""
    if not split_suffixes(path)[1]:
        return data
    import io

    with broken_as_document_error(path), decompressed(io.BytesIO(data), path) as stream:
        unpacked = stream.read(max_bytes + 1)
    if len(unpacked) > max_bytes:
        fact = f"more than max_document_bytes ({max_bytes}) when unpacked"
        raise DocumentError("too_large", fact)
    return unpacked


def _digest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while data := stream.read(READ_SIZE_BYTES):
        digest.update(data)
    return digest.hexdigest()
