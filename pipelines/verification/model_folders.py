"""Which tensors belong to which config: a repository may hold several models, folder by folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.verification.contents import Contents
from pipelines.verification.safetensors_header import Tensor

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_INDEX = "model_index.json"
MAX_NAMED_FILES = 8
ORIGINAL = re.compile(r"consolidated[\w.-]*\.safetensors")  # Mistral's own layout beside HF's
ADAPTER_WEIGHTS = re.compile(r"adapter_model[\w.-]*\.safetensors")
_EMBEDDING = re.compile(
    r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|token_embedding)\.weight"
    r"|(?:model\.)?shared\.weight"
)
_SEEING = re.compile(r"(^|\.)(vision|visual|audio|image)")


@dataclass(frozen=True)
class ModelFolder:
    """A config and the tensors that lie beside it; `holders` says in which file each lies."""

    config_file: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    holders: Mapping[str, str]
    indexes: tuple[str, ...]

    @property
    def text(self) -> Mapping[str, Any]:
        """The part of the config that describes the language model."""
        return text_config(self.config)

    def about(self, *names: str) -> list[str]:
        """Files that a contradiction about tensors is a finding about: config, holders, index.

        A tensor that is nowhere belongs where its neighbours of the same layer lie.
        """
        files = [self.config_file]
        for name in names:
            if name in self.holders:
                files.append(self.holders[name])
            else:
                files += self._neighbours(name)
                files += self.indexes
        return list(dict.fromkeys(files))[: MAX_NAMED_FILES + 1]

    def _neighbours(self, name: str) -> list[str]:
        stem = name
        while "." in stem:
            stem = stem.rsplit(".", 1)[0]
            near = {file for other, file in self.holders.items() if other.startswith(f"{stem}.")}
            if near:
                return sorted(near)
        return sorted(set(self.holders.values()))


def model_folders(contents: Contents) -> Iterator[ModelFolder]:
    """Every folder with a config.json of a model and safetensors beside it."""
    by_folder: dict[str, list[str]] = {}
    for name in contents.safetensors:
        path = PurePosixPath(name)
        if not (ORIGINAL.fullmatch(path.name) or ADAPTER_WEIGHTS.fullmatch(path.name)):
            by_folder.setdefault(folder_of(name), []).append(name)
    for folder, names in sorted(by_folder.items()):
        config_file = f"{folder}{CONFIG}"
        config = contents.object(config_file)
        if not config:
            continue
        tensors: dict[str, Tensor] = {}
        holders: dict[str, str] = {}
        for name in sorted(names):
            for tensor in contents.safetensors[name].tensors:
                tensors.setdefault(tensor.name, tensor)
                holders.setdefault(tensor.name, name)
        indexes = tuple(
            name
            for name, document in contents.objects()
            if folder_of(name) == folder and "weight_map" in document
        )
        yield ModelFolder(config_file, config, tensors, holders, indexes)


def folder_of(name: str) -> str:
    """'' for the root, else the folder with a slash at its end."""
    folder, slash, _ = name.rpartition("/")
    return folder + slash


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the language model."""
    for key in ("text_config", "llm_config", "language_config", "thinker_config"):
        part = config.get(key)
        if isinstance(part, dict):
            return text_config(part) if key == "thinker_config" else part
    return config


def embedding(contents: Contents) -> tuple[str, int] | None:
    """(file, rows) of the token embeddings at the root, or None where they have no known name."""
    found: list[tuple[int, str]] = []
    for name, header in contents.safetensors.items():
        if "/" in name or ADAPTER_WEIGHTS.fullmatch(name):
            continue
        for tensor in header.tensors:
            matrix = len(tensor.shape) == 2 and not tensor.dtype.startswith(("U", "I"))
            if matrix and _EMBEDDING.fullmatch(tensor.name) and not _SEEING.search(tensor.name):
                found.append((tensor.shape[0], name))
    if not found:
        return None
    rows, name = max(found)
    return name, rows


def embedding_rows(contents: Contents) -> int | None:
    """Number of token embeddings, or None where they have no known name."""
    there = embedding(contents)
    return there[1] if there else None
