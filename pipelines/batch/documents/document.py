"""What a document is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from pipelines.batch.text import DocumentError
from pipelines.canonical import sha256_bytes

_PLAIN = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS


@dataclass(frozen=True, slots=True)
class Document:
    """One document: who it is, where it lies, and its fields or the reason why there are none."""

    id: str
    path: str  # relative to the corpus as the system names it; '' for a corpus that is one file
    offset: int  # where it begins: bytes for lines, rows for Parquet, 0 for whole files
    sha256: str  # of the file's, line's or row's own bytes; '' when they cannot be read
    fields: dict[str, Any] = field(default_factory=dict)
    error: DocumentError | None = None
    media_type: str = ""
    request: Mapping[str, Any] | None = None  # what an OpenAI line asks for beside its messages

    @property
    def text(self) -> str:
        """The text that is chunked."""
        return str(self.fields["text"])

    def content_sha256(self) -> str:
        """sha256 over all fields but the id: equal for documents that ask the same."""
        return sha256_bytes(sorted_json([self.fields, self.request]))


def sorted_json(value: Any) -> bytes:
    """JSON with sorted keys; the bytes are for comparing and are never written anywhere."""
    try:
        return orjson.dumps(value, option=_PLAIN)
    except TypeError:  # numbers of more than 64 bits, halves of surrogate pairs
        import json

        return json.dumps(value, sort_keys=True).encode()
