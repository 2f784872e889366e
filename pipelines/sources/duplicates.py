"""Second copies of a model in one repository, told from the names of its files alone.

Publishers put one model into a repository several times: for other programs (onnx/, openvino/,
Mistral's consolidated.safetensors, a GGUF file), in another precision (model.fp16.safetensors), as
the steps of its training (checkpoint-500/). Loaders read the first copy. The others would double
what is fetched and stored, and a folder with two models would mean either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_CONSOLIDATED = re.compile(r"consolidated[\w.-]*\.safetensors(\.index\.json)?")
# The names that loaders look for, then the name of a variant: model.fp16.safetensors,
# model.fp16-00001-of-00002.safetensors, model.safetensors.index.fp16.json.
_VARIANT = re.compile(
    r"(?P<stem>model|diffusion_pytorch_model)"
    r"(\.\w+(-\d+-of-\d+)?\.safetensors|\.safetensors\.index\.\w+\.json|"
    r"\.\w+\.safetensors\.index\.json)"
)
_TRAINING_STEP = re.compile(r"(checkpoint|global_step)[-_]?\d+")
# Indexes of shards in a format that is not taken.
_FOREIGN_INDEX = re.compile(r".+\.(bin|h5|msgpack)\.index\.json")
_FOREIGN_WEIGHTS = re.compile(
    r".+\.(onnx|onnx_data|onnx\.data|bin|pt|pth|ckpt|h5|msgpack|tflite|mlmodel|pb|ot|npz|pkl)"
)
_PICKLED = re.compile(r"(diffusion_)?pytorch_model[\w.-]*\.bin")
_PIPELINE_INDEX = "model_index.json"


def duplicates(
    weights: Iterable[str], configs: Iterable[str], others: Iterable[str]
) -> frozenset[str]:
    """The files among `weights` and `configs` that belong to a second copy of the model.

    `others` are the files that are not taken in any case; all are paths relative to the source.
    """
    weights, configs = list(weights), list(configs)
    dropped = set(_copies(weights, configs))
    kept = [path for path in weights if path not in dropped]
    homes = {folder for path in kept for folder in _folders(path)}
    foreign = {
        folder
        for path in others
        if _FOREIGN_WEIGHTS.fullmatch(_name(path))
        for folder in _folders(path)
    }
    # A folder with weights for other programs and none that are taken: its settings are theirs.
    for path in configs:
        if any(folder in foreign and folder not in homes for folder in _folders(path)):
            dropped.add(path)
    return frozenset(dropped)


def unsafe_parts(
    weights: Iterable[str], configs: Iterable[str], others: Iterable[str]
) -> tuple[str, ...]:
    """Pickled weights of a part of the model that no safetensors file holds.

    A part is a folder with a config.json (unet/ of a pipeline, 2_Dense/ of an embedding model). A
    GGUF file is a whole model, so a source with no safetensors at all has no such parts.
    """
    safe = {_parent(path) for path in weights if path.endswith(".safetensors")}
    parts = {_parent(path) for path in configs if _name(path) == "config.json"}
    return tuple(
        sorted(
            path
            for path in others
            if safe
            and _PICKLED.fullmatch(_name(path))
            and _parent(path) in parts - safe
            and not _is_training_step(path)
        )
    )


def _copies(weights: list[str], configs: list[str]) -> Iterator[str]:
    """Files that are a copy by their own name."""
    everything = {*weights, *configs}
    usual = {_parent(path) for path in weights if _is_usual(_name(path))}
    whole = {folder for folder in usual if _join(folder, "config.json") in everything}
    pipelines = {_parent(path) for path in configs if _name(path) == _PIPELINE_INDEX}
    has_own = any(not _is_training_step(path) for path in weights)
    for path in everything:
        name, folder = _name(path), _parent(path)
        variant = _VARIANT.fullmatch(name)
        if (
            (_is_training_step(path) and has_own)
            or _FOREIGN_INDEX.fullmatch(name)
            or (_CONSOLIDATED.fullmatch(name) and folder in usual)
            or (variant and _has_plain(everything, folder, variant["stem"]))
            or (name.endswith(".safetensors") and folder in pipelines)
            or (name.lower().endswith(".gguf") and whole.intersection(_folders(path)))
        ):
            yield path


def _is_usual(name: str) -> bool:
    """Whether transformers finds weights under this name."""
    return re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name) is not None


def _has_plain(everything: set[str], folder: str, stem: str) -> bool:
    plain = _join(folder, f"{stem}.safetensors")
    return plain in everything or f"{plain}.index.json" in everything


def _is_training_step(path: str) -> bool:
    return any(_TRAINING_STEP.fullmatch(part) for part in path.split("/")[:-1])


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _folders(path: str) -> list[str]:
    """Every folder that the path lies in, from its own to the root ('')."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]
