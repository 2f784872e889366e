"""Configuration that makes a loader fetch or import something: refused whatever is installed.

The patterns are those of published vulnerabilities (trust_remote_code read from a config, hub
kernels named as attention implementation, auto_map followed although the flag was off) and of
loaders that import what a config names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import quoted, refusal, warning, words
from pipelines.verification.strict_json import walk

_REMEDY = "Take a model whose architecture the engine knows, or have the publisher remove the key."
_VOCABULARY_KEYS = frozenset({"vocab", "merges", "weight_map"})
_VOCABULARY_FILES = frozenset({"vocab.json", "added_tokens.json"})

_IMPORTS = words(
    "auto_map custom_pipelines custom_generate auto_mapping _target_ class_path module_path "
    "import_path python_module entry_point requirements pip_requirements plugins"
)
_FETCHES = words(
    "mm_vision_tower vision_tower pretrained_model_name_or_path speculative_model draft_model "
    "assistant_model remote_adapter adapter_repo"
)
_KERNEL_KEY = re.compile(r"(.*_)?(attn|attention|experts|kernel|kernels)(_.*)?", re.IGNORECASE)
_CROSS_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+--[\w.]+")
_URL = re.compile(r"\s*(https?|ftp|file|s3|gs|hf|git|git\+\w+)://", re.IGNORECASE)
_LOCATION_KEY = re.compile(r".*(path|file|dir|folder|url|uri|repo|repo_id|checkpoint|weights)")
_PEFT_LIBRARY = re.compile(r"transformers\.models(\.\w+)+")
_SENTENCE_TRANSFORMERS = re.compile(r"sentence_transformers(\.\w+)+")


def check(contents: Contents) -> Iterator[Finding]:
    """Every JSON file, at any depth."""
    for name, document in contents.documents.items():
        base = PurePosixPath(name).name
        if base in _VOCABULARY_FILES:
            continue
        for path, key, value in walk(document, skip=_VOCABULARY_KEYS):
            yield from _check_member(name, path, key, value)
        if base == "modules.json":
            yield from _check_modules(name, document)


def _check_member(name: str, path: str, key: str, value: Any) -> Iterator[Finding]:
    where = quoted(path)
    if key in _IMPORTS and _names_something(key, value):
        yield refusal("hook.import", name, f"{where} names code that a loader imports", _REMEDY)
    elif key == "trust_remote_code" and value not in (False, None):
        fact = f"{where} is {quoted(value)}: a loader may run code from the repository"
        yield refusal("hook.trust-remote-code", name, fact, _REMEDY)
    elif key == "use_kernels" and value not in (False, None):
        yield refusal("hook.kernel", name, f"{where} asks for kernels from a hub", _REMEDY)
    if not isinstance(value, str):
        return
    if _KERNEL_KEY.fullmatch(key) or "kernel" in path.lower():
        if re.search(r"[/:@]", value):
            fact = f"{where} names {quoted(value)}, which a loader fetches and runs"
            yield refusal("hook.kernel", name, fact, _REMEDY)
    elif _CROSS_REPOSITORY.fullmatch(value):
        fact = f"{where} names code in another repository: {quoted(value)}"
        yield refusal("hook.cross-repository", name, fact, _REMEDY)
    elif key in _FETCHES and "/" in value:
        fact = f"{where} makes a loader fetch {quoted(value)}"
        yield refusal("hook.fetch", name, fact, _REMEDY)
    elif _LOCATION_KEY.fullmatch(key):
        if _URL.match(value):
            fact = f"{where} makes a loader fetch {quoted(value)}"
            yield refusal("hook.fetch", name, fact, _REMEDY)
        elif ".." in PurePosixPath(value).parts:
            fact = f"{where} leads out of the folder: {quoted(value)}"
            yield refusal("hook.path", name, fact, _REMEDY)
    elif _URL.match(value):
        yield warning("hook.url", name, f"{where} is the address {quoted(value)}", "Look at it.")


def _names_something(key: str, value: Any) -> bool:
    """Whether an import key holds any name; PEFT's record of a transformers class is harmless."""
    if key == "auto_mapping" and isinstance(value, dict):
        library = value.get("parent_library")
        return library is not None and not (
            isinstance(library, str) and _PEFT_LIBRARY.fullmatch(library)
        )
    leaves = [value, *(leaf for _, _, leaf in walk(value))]
    return any(isinstance(leaf, str) and leaf for leaf in leaves) or value is True


def _check_modules(name: str, document: Any) -> Iterator[Finding]:
    """sentence-transformers imports the dotted path that each module's type names."""
    for path, key, value in walk(document):
        if key == "type" and not (
            isinstance(value, str) and _SENTENCE_TRANSFORMERS.fullmatch(value)
        ):
            fact = f"{quoted(path)} makes a loader import {quoted(value)}"
            yield refusal("hook.import", name, fact, _REMEDY)
