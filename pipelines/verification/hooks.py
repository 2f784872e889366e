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
    "import_path python_module entry_point requirements pip_requirements plugins install_requires "
    "custom_pipeline custom_code custom_module custom_modules custom_ops extra_modules"
)
_FETCHES = words(
    "mm_vision_tower vision_tower pretrained_model_name_or_path speculative_model draft_model "
    "assistant_model remote_adapter adapter_repo draft speculative"
)
_KERNEL_KEY = re.compile(r"(.*_)?(attn|attention|experts|kernel|kernels)(_.*)?", re.IGNORECASE)
_CROSS_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+--[\w.]+")
_URL = re.compile(r"\s*(https?|ftp|file|s3|gs|hf|git|git\+\w+)://", re.IGNORECASE)
_LOCATION_KEY = re.compile(r".*(path|file|dir|folder|url|uri|repo|repo_id|checkpoint|weights)")
_PEFT_LIBRARY = re.compile(r"transformers\.models(\.\w+)+")
_SENTENCE_TRANSFORMERS = re.compile(r"sentence_transformers(\.\w+)+")


MAX_METADATA_CHARACTERS = 1_000_000  # thumbnails and counts of tags have hundreds of thousands
_KERNEL_FLAGS = words("use_kernels use_kernel hub_kernels")
_CLASS_KEY = re.compile(
    r".*(tokenizer|processor|extractor)_(class|type)|tokenizer_class|model_type|architectures|_class_name"
    r"|.*_fn_name|.*_cls|cache_implementation|backend|quant_method|parent_library"
)
_CLASS = re.compile(r"[\w-]*(\.[\w-]+)?", re.ASCII)  # 'qwen2.5' is a type, 'a.b.c' a path
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
_CODE_FILE = re.compile(r"[^\s]*\.(py|pyc|so|dll|dylib|sh|pkl|pickle|pt|pth|bin|js|lua|jar)")
_CODE_TEXT = re.compile(
    r"__import__|\b(exec|eval|compile|getattr|open)\s*\(|\bos\.(system|popen)|\bsubprocess\b|"
    r"^\s*lambda\b.*:|^\s*(import|from)\s+\w+(\s+import\b|\s*$)"
)
_PICKLED = re.compile(r"gA[JMRSUV][A-Za-z0-9+/]{12,}={0,2}")  # base64 of a pickle's first bytes
# Where a model was trained (/opt/ml, /home/me/.cache) is written into honest configs.
_SYSTEM_PATH = re.compile(
    r"/(etc|proc|sys|dev|bin|sbin|usr|boot|run|var/run|var/lib|lib\w*)/"
    r"|/(root|home/[^/]+)/\.(?!cache/|local/)"
)
_TOOL_ADDRESS = re.compile(r"(quantization_config\.)?meta\.uri")  # of gptqmodel; a note
_KERNEL_PATH = re.compile(
    r"(^|[._])kernels?([._\[]|$)|attn_implementation|experts_implementation", re.IGNORECASE
)
_NOTES = words("license license_link homepage url reference source paper documentation")
_SETTINGS = re.compile(r".*(settings|config|model|module|loader|decoder|encoder|hook|name_or_path)")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_FREE_TEXT = words("prompts prompt description license_text readme chat_template")
_DIFFUSERS = words("diffusers transformers onnxruntime flax stable_diffusion")


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
        elif base == "model_index.json" and isinstance(document, dict):
            yield from _check_pipeline(name, document)
    yield from _check_metadata(contents)


def _check_metadata(contents: Contents) -> Iterator[Finding]:
    """The texts in safetensors headers: notes for readers, which some loaders act on."""
    for name, header in contents.safetensors.items():
        for key, value in header.metadata.items():
            if len(value) > MAX_METADATA_CHARACTERS:
                fact = f"__metadata__ {quoted(key)} has {len(value)} characters"
                yield refusal("hook.metadata", name, fact, _REMEDY)
            elif value.startswith("#!"):
                fact = f"__metadata__ {quoted(key)} is a script: {quoted(value)}"
                yield refusal("hook.code", name, fact, _REMEDY)
            else:
                yield from _check_member(name, f"__metadata__.{key}", key, value)


def _check_member(name: str, path: str, key: str, value: Any) -> Iterator[Finding]:
    where = quoted(path)
    if key in _IMPORTS and _names_something(key, value):
        yield refusal("hook.import", name, f"{where} names code that a loader imports", _REMEDY)
    elif key == "trust_remote_code" and value not in (False, None):
        fact = f"{where} is {quoted(value)}: a loader may run code from the repository"
        yield refusal("hook.trust-remote-code", name, fact, _REMEDY)
    elif key in _KERNEL_FLAGS and value not in (False, None, [], {}):
        yield refusal("hook.kernel", name, f"{where} asks for kernels from a hub", _REMEDY)
    if not isinstance(value, str) or _in_free_text(path):
        return
    yield from _check_text(name, path, key, value)
    if _KERNEL_KEY.fullmatch(key) or _KERNEL_PATH.search(path):
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
        if _TOOL_ADDRESS.fullmatch(path):
            yield from _check_url(name, "url", where, value)
        elif _URL.match(value):
            fact = f"{where} makes a loader fetch {quoted(value)}"
            yield refusal("hook.fetch", name, fact, _REMEDY)
        elif ".." in PurePosixPath(value).parts:
            fact = f"{where} leads out of the folder: {quoted(value)}"
            yield refusal("hook.path", name, fact, _REMEDY)
        elif _SYSTEM_PATH.match(value) or (value.startswith("/") and _CODE_FILE.fullmatch(value)):
            fact = f"{where} names a file of this machine: {quoted(value)}"
            yield refusal("hook.path", name, fact, _REMEDY)
    elif _URL.match(value):
        yield from _check_url(name, key, where, value)


def _check_text(name: str, path: str, key: str, value: str) -> Iterator[Finding]:
    """Texts that are code, or names of code, wherever they stand."""
    where = quoted(path)
    if _CODE_TEXT.search(value):
        yield refusal("hook.code", name, f"{where} is code: {quoted(value)}", _REMEDY)
    elif _PICKLED.search(value):
        yield refusal("hook.code", name, f"{where} holds a pickle in base64", _REMEDY)
    elif _CODE_FILE.fullmatch(value) and not value.endswith((".bin", ".pt", ".pth")):
        fact = f"{where} names a file of code: {quoted(value)}"
        yield refusal("hook.import", name, fact, _REMEDY)
    elif (
        _FUNCTION.fullmatch(value)
        and not value.startswith("re:")
        and not value.split(":")[0].isdigit()
    ):
        fact = f"{where} names a function to import: {quoted(value)}"
        yield refusal("hook.import", name, fact, _REMEDY)
    elif _CLASS_KEY.fullmatch(key) and key != "parent_library":
        outside = _CLASS.fullmatch(value) is None or (
            key != "model_type" and _DOTTED.fullmatch(value) is not None
        )
        if outside and not value.startswith("transformers."):
            fact = f"{where} names something to import: {quoted(value)}"
            yield refusal("hook.import", name, fact, _REMEDY)
    elif "quantization_config" in path and _REPOSITORY.fullmatch(value):
        fact = f"{where} names {quoted(value)}, which a loader fetches"
        yield refusal("hook.kernel", name, fact, _REMEDY)
    elif "speculative" in path and key == "model" and "/" in value:
        fact = f"{where} makes a loader fetch {quoted(value)}"
        yield refusal("hook.fetch", name, fact, _REMEDY)


def _check_url(name: str, key: str, where: str, value: str) -> Iterator[Finding]:
    """An address is a note where people write notes, and a refusal where settings belong."""
    if key in _NOTES or not _SETTINGS.fullmatch(key):
        yield warning("hook.url", name, f"{where} is the address {quoted(value)}", "Look at it.")
    else:
        fact = f"{where} makes a loader fetch {quoted(value)}"
        yield refusal("hook.fetch", name, fact, _REMEDY)


def _in_free_text(path: str) -> bool:
    return any(part.split("[")[0] in _FREE_TEXT for part in path.split("."))


def _check_pipeline(name: str, document: dict[str, Any]) -> Iterator[Finding]:
    """diffusers imports each part's class from the library that stands beside it."""
    for key, value in document.items():
        if not isinstance(value, list) or not value or not isinstance(value[0], str):
            continue
        library = value[0]
        known = library in _DIFFUSERS or library.startswith("diffusers.pipelines.")
        if key == "_class_name" or not known or len(value) != 2:
            fact = f"{quoted(key)} makes a loader import {quoted(value)}"
            yield refusal("hook.import", name, fact, _REMEDY)


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
        if key in ("module", "class") or (key == "path" and ".." in str(value)):
            yield refusal("hook.import", name, f"{quoted(path)} is {quoted(value)}", _REMEDY)
        if key == "type" and not (
            isinstance(value, str) and _SENTENCE_TRANSFORMERS.fullmatch(value)
        ):
            fact = f"{quoted(path)} makes a loader import {quoted(value)}"
            yield refusal("hook.import", name, fact, _REMEDY)
