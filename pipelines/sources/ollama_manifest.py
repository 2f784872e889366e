"""An Ollama manifest: which blobs make up a model, and what becomes of each.

A manifest is a Docker image manifest (schema 2) whose layers are files: the GGUF, its projector
and adapters, licence texts, and what Ollama itself reads (prompt template, parameters, system
prompt). Its sha256 is the pin: it names every blob by sha256 and size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import UnusableSource
from pipelines.sources.claims import MAX_TEXT_BYTES
from pipelines.sources.selection import Selection

MANIFEST_PATH = "ollama/manifest.json"
CONFIG_PATH = "ollama/config.json"

_LAYER = "application/vnd.ollama.image."
_WEIGHTS = ("model", "projector", "adapter")
_PAPERS = {
    "template": "ollama/template",
    "system": "ollama/system",
    "params": "ollama/params.json",
    "messages": "ollama/messages.json",
}
_ELSEWHERE = "Take the model from its publisher's own repository (hf://…), or a tag in GGUF."
_NOT_A_MANIFEST = "Check that the address is that of an Ollama registry and of a model."


class _Part(BaseModel):
    """A document of others, who may add fields to it."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Layer(_Part):
    """One blob: what it is, its address and its size."""

    media_type: str = Field(alias="mediaType")
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    size_bytes: int = Field(alias="size", ge=0)

    @property
    def sha256(self) -> str:
        """The digest without the name of its algorithm."""
        return self.digest.removeprefix("sha256:")


class _Manifest(_Part):
    config: Layer
    layers: tuple[Layer, ...]


class _Config(_Part):
    model_format: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest's blobs by the path that each is given here, and what becomes of them."""

    config: Layer
    layers: dict[str, Layer]
    selection: Selection

    def select(self, paths: Sequence[str]) -> Selection:
        """The selection, without what is not among `paths`."""
        left = set(paths)
        kinds: dict[str, Sequence[str]] = dict(self.selection)
        kept = {kind: tuple(p for p in found if p in left) for kind, found in kinds.items()}
        return Selection.model_validate(kept)


def parse_manifest(reference: str, data: bytes) -> Image:
    """Read a manifest and give each layer a path.

    Raises UnusableSource for what is no such manifest, for weights that are no GGUF files, and for
    layers of a kind that is not known here: they may be part of what the model is.
    """
    try:
        manifest = _Manifest.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "JSON"
        fact = f"what it gives as its manifest is none ({where}: {problem['msg']})"
        raise UnusableSource(reference, fact, _NOT_A_MANIFEST) from error
    kinds = [(_kind(reference, layer), layer) for layer in manifest.layers]
    models = [layer for kind, layer in kinds if kind == "model"]
    if not models:
        fact = "its manifest lists no model layer, as those of models that run in a cloud do"
        raise UnusableSource(reference, fact, _ELSEWHERE)
    layers: dict[str, Layer] = {}
    counts: Counter[str] = Counter()
    chosen: dict[str, list[str]] = {
        "weights": [], "licences": [], "papers": [MANIFEST_PATH, CONFIG_PATH], "left_out": []
    }  # fmt: skip
    for kind, layer in kinds:
        counts[kind] += 1
        becomes, path = _path(kind, counts[kind], len(models))
        layers[path] = layer
        chosen[becomes].append(path)
        if becomes in ("licences", "papers") and layer.size_bytes > MAX_TEXT_BYTES:
            fact = f"{path} is longer than {MAX_TEXT_BYTES} bytes"
            raise UnusableSource(reference, fact, _ELSEWHERE)
    return Image(manifest.config, layers, Selection.model_validate(chosen))


def check_config(reference: str, data: bytes) -> None:
    """Refuse a model whose configuration does not say that its weights are GGUF."""
    try:
        found = _Config.model_validate_json(data).model_format
    except ValidationError as error:
        fact = "its configuration is no JSON object"
        raise UnusableSource(reference, fact, _NOT_A_MANIFEST) from error
    if found != "gguf":
        fact = f"its configuration gives the weights' format as {found!r}, not 'gguf'"
        raise UnusableSource(reference, fact, _ELSEWHERE)


def _kind(reference: str, layer: Layer) -> str:
    kind = layer.media_type.removeprefix(_LAYER)
    if kind == "tensor":
        fact = "its weights are single tensors in Ollama's own form, not a GGUF file"
        raise UnusableSource(reference, fact, _ELSEWHERE)
    if kind not in (*_WEIGHTS, *_PAPERS, "license", "draft"):
        fact = f"a layer is of a kind that is not known here ({layer.media_type})"
        raise UnusableSource(reference, fact, _ELSEWHERE)
    return kind


def _path(kind: str, number: int, models: int) -> tuple[str, str]:
    """What becomes of the `number`th layer of its kind, and its path."""
    if kind == "model" and models > 1:
        return "weights", f"model-{number:05d}-of-{models:05d}.gguf"
    again = f"-{number}" if number > 1 else ""
    if kind == "license":
        return "licences", f"LICENSE{again}"
    if kind in _PAPERS:
        stem, dot, suffix = _PAPERS[kind].partition(".")
        return "papers", f"{stem}{again}{dot}{suffix}"
    # A draft model only guesses ahead for the real one, whose answers are the same without it.
    return "left_out" if kind == "draft" else "weights", f"{kind}{again}.gguf"
