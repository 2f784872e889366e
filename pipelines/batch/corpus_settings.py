"""Where the documents of a job are and what counts as one: a part of a job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.canonical import Frozen

Kind = Literal["folder", "jsonl", "csv", "parquet", "openai"]
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


class Corpus(Frozen):
    """Where the documents are and what counts as one."""

    path: str = Field(
        min_length=1,
        title="Path",
        description=(
            "A folder or s3://bucket/prefix of .txt, .md, .html, .pdf and .docx files, or of "
            "tables (name their kind); or one .jsonl, .csv, .tsv or .parquet file. .gz and .zst "
            "are opened."
        ),
        examples=["/data/contracts", "/data/tickets.jsonl", "s3://archive/contracts/2026"],
    )
    kind: Kind | None = Field(
        default=None,
        title="Kind",
        description=(
            "folder: each file is a document. jsonl, csv, parquet: each row is one. openai: each "
            "line is a request in the OpenAI batch format. Empty: told by the suffix of the path."
        ),
    )
    id_column: str | None = Field(
        default="id",
        title="Id column",
        description="Tables: what names a document. null: its file and its place in it.",
    )
    text_column: str = Field(
        default="text", title="Text column", description="Tables: what holds the text."
    )
    messages_column: str | None = Field(
        default=None,
        title="Messages column",
        description="jsonl: a chat (system, user and assistant messages) to send as it is.",
        examples=["messages"],
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        title="Delimiter",
        description="csv: between two cells. Empty: a comma, and a tab in .tsv files.",
    )
    max_document_bytes: int = Field(
        default=5_000_000,
        ge=1,
        title="Largest document",
        description="Size in bytes, unpacked, above which a document becomes an error row.",
    )
    read_timeout_s: float = Field(
        default=30.0,
        gt=0,
        title="Time for a PDF or Word file",
        description="In seconds; one that takes longer becomes an error row.",
    )
    first: int | None = Field(
        default=None,
        ge=1,
        title="Only the first documents",
        description="Read no more than so many. Empty: all.",
    )
    language: bool = Field(
        default=False,
        title="Tell languages",
        description="Note each document's language (about 0.3 ms a document).",
    )

    @field_validator("path", mode="before")
    @classmethod
    def _path_is_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @property
    def reading(self) -> Kind:
        """The kind that was named, or that the suffix of the path tells."""
        stem, last = os.path.splitext(self.path.lower())
        suffix = os.path.splitext(stem)[1] if last in (".gz", ".zst") else last
        return self.kind or _KINDS.get(suffix, "folder")

    @property
    def is_chat(self) -> bool:
        """Whether documents are chats, sent as they are without a template."""
        return self.reading == "openai" or self.messages_column is not None

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if self.messages_column is not None and self.reading != "jsonl":
            raise ValueError("messages_column is for jsonl")
        return self
