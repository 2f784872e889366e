"""Chat templates: every place where one can hide, and the hash of the one that counts.

transformers loads `chat_template.jinja` before the `chat_template` of tokenizer_config.json and
adds `additional_chat_templates/*.jinja`; processors have their own JSON files; GGUF has metadata
keys; any other JSON string may hold Jinja that some loader picks up. The hash of a model's
template is the sha256 of the UTF-8 text that the tokenizer renders with when it is asked for none
by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.canonical import sha256_bytes
from pipelines.errors import ConfigError

STANDALONE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_FILES = ("chat_template.json", "processor_config.json", "preprocessor_config.json")
GGUF_KEY = "tokenizer.chat_template"
KEY = "chat_template"
DEFAULT = "default"


@dataclass(frozen=True)
class FoundTemplate:
    """One template: where it lies, under which name, and its text."""

    file: str
    name: str  # 'default', a name that a caller can ask for, or the path of a JSON member
    text: str

    @property
    def sha256(self) -> str:
        """Of the UTF-8 text."""
        return sha256_bytes(self.text.encode())


def template_sha256(folder: Path) -> str:
    """sha256 of the chat template that the tokenizer in `folder` loads, or '' if it loads none.

    Raises ConfigError when tokenizer_config.json or a template cannot be read.
    """
    standalone = folder / STANDALONE
    if standalone.is_file():
        return FoundTemplate(STANDALONE, DEFAULT, read_text(standalone)).sha256
    for name in (TOKENIZER_CONFIG, *PROCESSOR_FILES):
        path = folder / name
        if path.is_file():
            try:
                document = json.loads(path.read_bytes())
            except ValueError as error:
                raise ConfigError(path, f"not JSON ({error})", "Fetch it again.") from error
            found = _of_document(name, document)
            if chosen := [template for template in found if template.name == DEFAULT]:
                return chosen[0].sha256
    for path in sorted(folder.glob("*.gguf")):
        from pipelines.verification.gguf_header import read_gguf

        found = list(in_gguf(path.name, read_gguf(path).keys))
        if chosen := [template for template in found if template.name == DEFAULT]:
            return chosen[0].sha256
    return ""


def default_template(found: list[FoundTemplate]) -> FoundTemplate | None:
    """The one that the tokenizer renders with, among all that were found; see template_sha256."""
    order = (STANDALONE, TOKENIZER_CONFIG, *PROCESSOR_FILES)
    defaults = [template for template in found if template.name == DEFAULT]
    for file in order:
        for template in defaults:
            if template.file == file:
                return template
    return next((t for t in defaults if t.file.endswith(".gguf") and "/" not in t.file), None)


def in_json(file: str, document: Any, members: Iterator[tuple[str, str, Any]]) -> Iterator[FoundTemplate]:
    """Templates in one JSON file: its chat_template, and any other string with Jinja in it.

    `members` are the file's members as `strict_json.walk` gives them.
    """
    yield from _of_document(file, document)
    for path, key, value in members:
        if not isinstance(value, str) or path == KEY or path.startswith(f"{KEY}["):
            continue
        if key == KEY or path.startswith(f"{KEY}.") or "{%" in value or "{{" in value:
            if not path.startswith(f"{KEY}.") or path != f"{KEY}.{DEFAULT}":
                yield FoundTemplate(file, path, value)


def in_gguf(file: str, keys: Mapping[str, Any]) -> Iterator[FoundTemplate]:
    """Templates in GGUF metadata: `tokenizer.chat_template` and `tokenizer.chat_template.NAME`."""
    for key, value in keys.items():
        if isinstance(value, str) and (key == GGUF_KEY or "{%" in value or "{{" in value):
            yield FoundTemplate(file, DEFAULT if key == GGUF_KEY else key, value)


def read_text(path: Path) -> str:
    """A template file as transformers reads it: UTF-8, line ends translated to newlines."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"not UTF-8 ({error})", "Fetch it again.") from error


def _of_document(file: str, document: Any) -> Iterator[FoundTemplate]:
    """chat_template as a text, as a list of {name, template}, or as a map of names."""
    value = document.get(KEY) if isinstance(document, dict) else None
    if isinstance(value, str):
        yield FoundTemplate(file, DEFAULT, value)
    elif isinstance(value, dict):
        for name, text in value.items():
            if isinstance(text, str):
                yield FoundTemplate(file, name, text)
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                yield FoundTemplate(file, str(entry.get("name")), entry["template"])
