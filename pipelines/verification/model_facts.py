"""What a model folder says about the model in it: architecture, task, what it takes and gives.

Nothing is invented: a field stays empty where configuration and headers are silent. All of it is
the publisher's own word, checked elsewhere as far as it can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipelines.canonical import Frozen
from pipelines.verification.contents import Contents
from pipelines.verification.findings import printable

CONFIG = "config.json"
SAVED_WITH = {"transformers_version": "transformers", "_diffusers_version": "diffusers"}
# What transformers calls the head of a model; heads that serve several tasks are left out.
_TASKS = {
    "ForCausalLM": ("text-generation", ("text",), ("text",)),
    "ForMaskedLM": ("fill-mask", ("text",), ("text",)),
    "ForSequenceClassification": ("text-classification", ("text",), ("scores",)),
    "ForTokenClassification": ("token-classification", ("text",), ("labels",)),
    "ForQuestionAnswering": ("question-answering", ("text",), ("text",)),
    "ForImageClassification": ("image-classification", ("image",), ("scores",)),
    "ForSpeechSeq2Seq": ("automatic-speech-recognition", ("audio",), ("text",)),
}
_SENSES = ("vision", "visual", "image", "audio", "speech", "video", "mm_", "multimodal")
_SENSING_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor")
_MAX_CHARACTERS = 200


class ModelFacts(Frozen):
    """What is stated about a model; '' and () where nothing is."""

    architecture: str = ""
    architecture_family: str = ""
    task: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    text_only: bool = False
    saved_with: dict[str, str] = {}
    tensor_types: dict[str, int] = {}


def read_model_facts(contents: Contents) -> ModelFacts:
    """Facts from config.json, GGUF keys and tensor headers that were read already."""
    config = contents.object(CONFIG)
    names = config.get("architectures")
    architecture = _text(names[0]) if isinstance(names, list) and names else ""
    family = _text(config.get("model_type"))
    for header in contents.ggufs.values():
        family = family or _text(header.keys.get("general.architecture"))
    text_only = _is_text_only(contents, config, architecture)
    task, inputs, outputs = next(
        (known for suffix, known in _TASKS.items() if architecture.endswith(suffix)), ("", (), ())
    )
    if "text" in inputs and not text_only:
        task, inputs, outputs = "", (), ()
    return ModelFacts(
        architecture=architecture,
        architecture_family=family,
        task=task,
        inputs=inputs,
        outputs=outputs,
        text_only=text_only,
        saved_with=dict(sorted(_saved_with(contents))),
        tensor_types=dict(sorted(Counter(_tensor_types(contents)).items())),
    )


def _is_text_only(contents: Contents, config: dict[str, Any], architecture: str) -> bool:
    """Whether nothing here points to images, sound or video; False where that cannot be told."""
    if not architecture.endswith(("ForCausalLM", "ForMaskedLM", "ForSequenceClassification")):
        return False
    names = [*config, *(t.name for h in contents.safetensors.values() for t in h.tensors)]
    sensing = any(sense in name.lower() for name in names for sense in _SENSES)
    return not sensing and not any(
        name.rsplit("/", 1)[-1].startswith(_SENSING_FILES) for name in contents.formats
    )


def _saved_with(contents: Contents) -> Iterator[tuple[str, str]]:
    for name in (CONFIG, "model_index.json"):
        for key, package in SAVED_WITH.items():
            if version := _text(contents.object(name).get(key)):
                yield package, version


def _tensor_types(contents: Contents) -> Iterator[str]:
    for header in contents.safetensors.values():
        yield from (str(tensor.dtype) for tensor in header.tensors)
    for gguf in contents.ggufs.values():
        yield from (str(tensor.type) for tensor in gguf.tensors)


def _text(value: object) -> str:
    return printable(value)[:_MAX_CHARACTERS] if isinstance(value, str) else ""
