"""The documents of the whole repository: objects where programs expect objects."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import refusal
from pipelines.verification.generation import GENERATION_CONFIG
from pipelines.verification.model_folders import CONFIG

_OBJECTS = (CONFIG, GENERATION_CONFIG, "tokenizer_config.json", "tokenizer.json")


def check(contents: Contents) -> Iterator[Finding]:
    """Files that every loader reads as an object."""
    for name in _OBJECTS:
        if name in contents.documents and not isinstance(contents.documents[name], dict):
            yield refusal("json.not-an-object", name, "its top level is not an object")
