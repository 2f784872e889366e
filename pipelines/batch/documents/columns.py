"""What the columns of a table row mean: a document's id, its text and its other fields."""

from __future__ import annotations

from typing import Any

from pipelines.batch.corpus_settings import Corpus
from pipelines.batch.documents.document import Document
from pipelines.batch.documents.requests import chat_fields, request_document
from pipelines.batch.text import DocumentError, check_text, not_empty


def row_document(
    corpus: Corpus, value: object, place: tuple[str, str, int], sha256: str, media_type: str
) -> Document:
    """The document of a row, whose place is (fallback id, path, offset)."""
    identity, path, offset = place
    try:
        if not isinstance(value, dict):
            raise DocumentError("invalid_line", "not a JSON object")
        if corpus.kind == "openai":  # never told by a suffix
            return request_document(value, place, sha256)
        if corpus.id_column is not None:
            identity = row_identity(value.get(corpus.id_column), corpus.id_column)
        fields = _fields(corpus, value)
    except DocumentError as error:
        return Document(identity, path, offset, sha256, error=error, media_type=media_type)
    return Document(identity, path, offset, sha256, fields, media_type=media_type)


def row_identity(value: object, column: str) -> str:
    """An id as text; DocumentError for what names nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DocumentError("invalid_line", f"no id (text or a whole number) under {column!r}")
    try:
        return check_text(str(value))
    except DocumentError as error:
        raise DocumentError("invalid_line", f"the id holds {error}") from error


def _fields(corpus: Corpus, value: dict[str, Any]) -> dict[str, Any]:
    fields = dict(value)
    fields.pop(corpus.id_column or "", None)
    if corpus.messages_column is not None:
        messages = fields.pop(corpus.messages_column, None)
        return {**fields, **chat_fields(messages, corpus.messages_column)}
    text = fields.pop(corpus.text_column, None)
    if not isinstance(text, str):
        raise DocumentError("missing_field", f"no text under {corpus.text_column!r}")
    fields["text"] = not_empty(check_text(text))
    return fields
