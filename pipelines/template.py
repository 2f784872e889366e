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
from pipelines.verification.gguf_header import read_gguf
from pipelines.verification.strict_json import walk

STANDALONE = "chat_template.jinja"
ADDITIONAL = "additional_chat_templates"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_FILES = ("chat_template.json", "processor_config.json", "preprocessor_config.json")
GGUF_KEY = "tokenizer.chat_template"
KEY = "chat_template"
DEFAULT = "default"
_VOCABULARY_KEYS = frozenset({"vocab", "merges", "weight_map", "added_tokens"})


@dataclass(frozen=True)
class FoundTemplate:
    """One template: where it lies, under which name, and its text."""

    file: str
    name: str  # DEFAULT, a name that a caller can ask for, or the path of a JSON member
    text: str
    declared: bool = True  # False: a string that looks like Jinja where no template belongs

    @property
    def sha256(self) -> str:
        """Of the UTF-8 text."""
        return sha256_bytes(self.text.encode(errors="surrogatepass"))


def template_sha256(folder: Path) -> str:
    """sha256 of the chat template that the tokenizer in `folder` loads, or '' if it loads none.

    Raises ConfigError when a file that may hold it cannot be read, and MalformedFile for GGUF.
    """
    found = default_templates(folder)
    return found[0].sha256 if found else ""


def default_templates(folder: Path) -> list[FoundTemplate]:
    """Every template that some loader takes as the default, the tokenizer's own choice first."""
    found = []
    for name in (f"{ADDITIONAL}/{DEFAULT}.jinja", STANDALONE):
        path = folder / name
        if path.is_file():
            found.append(FoundTemplate(name, DEFAULT, read_text(path)))
    for name in (TOKENIZER_CONFIG, *PROCESSOR_FILES):
        path = folder / name
        if path.is_file():
            found += [t for t in _declared(name, _read_json(path)) if t.name == DEFAULT]
    for path in sorted(folder.glob("*.gguf")):
        found += [t for t in in_gguf(path.name, read_gguf(path).keys) if t.name == DEFAULT]
    return found


def in_file(name: str, text: str) -> FoundTemplate:
    """A template file, named as transformers names it."""
    if name == STANDALONE:
        return FoundTemplate(name, DEFAULT, text)
    folder, _, base = name.rpartition("/")
    return FoundTemplate(name, base.removesuffix(".jinja") if folder == ADDITIONAL else name, text)


def in_json(name: str, document: Any) -> Iterator[FoundTemplate]:
    """Templates in one JSON file: its chat_template, and any other string with Jinja in it."""
    yield from _declared(name, document)
    for path, key, value in walk(document, skip=_VOCABULARY_KEYS):
        if not isinstance(value, str) or path.startswith(KEY):
            continue  # not a text, or declared and given above
        if key == KEY or "{%" in value or ("{{" in value and "}}" in value):
            yield FoundTemplate(name, path, value, declared=key == KEY)


def in_gguf(name: str, keys: Mapping[str, Any]) -> Iterator[FoundTemplate]:
    """Templates in GGUF metadata: `tokenizer.chat_template` and `tokenizer.chat_template.NAME`."""
    for key, value in keys.items():
        if not isinstance(value, str):
            continue
        if key == GGUF_KEY:
            yield FoundTemplate(name, DEFAULT, value)
        elif key.startswith(f"{GGUF_KEY}."):
            yield FoundTemplate(name, key.removeprefix(f"{GGUF_KEY}."), value)
        elif "{%" in value or ("{{" in value and "}}" in value):
            yield FoundTemplate(name, key, value, declared=False)


def read_text(path: Path) -> str:
    """A template file as transformers reads it: UTF-8, line ends translated to newlines."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"not UTF-8 ({error})", "Fetch it again.") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, f"not JSON ({error})", "Fetch it again.") from error


def _declared(name: str, document: Any) -> Iterator[FoundTemplate]:
    """chat_template as a text, as a list of {name, template}, or as a map of names."""
    value = document.get(KEY) if isinstance(document, dict) else None
    if isinstance(value, list):
        pairs = [(e.get("name"), e.get("template")) for e in value if isinstance(e, dict)]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = [(DEFAULT, value)]
    for title, text in pairs:
        if isinstance(text, str):
            yield FoundTemplate(name, str(title), text)
