"""config.json against the tensors: vocabulary, width, layers, ties.

Only what the names and numbers of a config imply for every decoder that uses the common tensor
names; a config or naming that is not known gives no finding here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, refusal
from pipelines.verification.safetensors_header import Tensor

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_REMEDY = "Fetch config.json and the weights again from one revision."
_EMBEDDINGS = (
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "transformer.wte.weight",
    "gpt_neox.embed_in.weight",
)
_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "embed_out.weight")
_LAYER = re.compile(
    r"(?:model\.|transformer\.|language_model\.model\.|model\.language_model\.|gpt_neox\.)"
    r"(?:layers|h)\.(\d+)\."
)
_LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "num_layers")
_EXTRA_LAYER_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "mtp_num_layers")
_PACKED = ("quantization_config", "compression_config")


def check(contents: Contents) -> Iterator[Finding]:
    """Presence of weights and config, then what the config implies for the tensors."""
    config = contents.object(CONFIG)
    adapter = ADAPTER_CONFIG in contents.documents
    if not (contents.safetensors or contents.ggufs):
        fact = "there is no readable weights file"
        yield refusal("weights.absent", "", fact, "Check the path and the findings above.")
    if contents.safetensors and not config and not adapter:
        fact = "there are safetensors and no readable config.json"
        yield refusal("config.absent", CONFIG, fact, "Fetch the whole repository.")
    tensors = {
        tensor.name: tensor
        for name, header in contents.safetensors.items()
        if "/" not in name
        for tensor in header.tensors
    }
    if config and tensors and not adapter:
        yield from _check_tensors(config, text_config(config), tensors)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the language model."""
    for key in ("text_config", "llm_config", "language_config"):
        part = config.get(key)
        if isinstance(part, dict):
            return part
    return config


def embedding_rows(contents: Contents) -> int | None:
    """Number of token embeddings, from the tensors, or None where they have no known name."""
    for header in contents.safetensors.values():
        for tensor in header.tensors:
            if tensor.name in _EMBEDDINGS and len(tensor.shape) == 2:
                return tensor.shape[0]
    return None


def _check_tensors(
    config: Mapping[str, Any], text: Mapping[str, Any], tensors: dict[str, Tensor]
) -> Iterator[Finding]:
    packed = any(key in config for key in _PACKED)
    for name in (*_EMBEDDINGS, *_HEADS):
        tensor = tensors.get(name)
        if tensor is not None and not packed:
            yield from _check_matrix(text, tensor)
    head = any(name in tensors for name in _HEADS)
    embedding = any(name in tensors for name in _EMBEDDINGS)
    if embedding and not head and _says_untied(config, text) and _is_causal(config):
        fact = "the config says that input and output embeddings differ, and there is no lm_head"
        yield refusal("config.tied", CONFIG, fact, _REMEDY)
    yield from _check_layers(text, tensors)


def _check_matrix(text: Mapping[str, Any], tensor: Tensor) -> Iterator[Finding]:
    if len(tensor.shape) != 2:
        fact = f"{tensor.name} has the shape {list(tensor.shape)}, not rows of vectors"
        yield refusal("config.shape", CONFIG, fact, _REMEDY)
        return
    for key, size in (("vocab_size", tensor.shape[0]), ("hidden_size", tensor.shape[1])):
        said = text.get(key)
        if type(said) is int and said != size:
            fact = f"{key} is {said}, and {tensor.name} has the shape {list(tensor.shape)}"
            yield refusal("config.shape", CONFIG, fact, _REMEDY)


def _says_untied(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    values = [
        part["tie_word_embeddings"] for part in (config, text) if "tie_word_embeddings" in part
    ]
    return bool(values) and not any(values)


def _is_causal(config: Mapping[str, Any]) -> bool:
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForCausalLM") for name in names)


def _check_layers(text: Mapping[str, Any], tensors: dict[str, Tensor]) -> Iterator[Finding]:
    """Every layer that the config counts has tensors, and no other layer has."""
    said = next((text[key] for key in _LAYER_COUNT_KEYS if type(text.get(key)) is int), None)
    there = {int(match[1][:9]) for name in tensors if (match := _LAYER.match(name))}
    if said is None or not there:
        return
    extra = sum(text[key] for key in _EXTRA_LAYER_KEYS if type(text.get(key)) is int)
    if absent := _gaps(there, said):
        fact = f"it counts {said} layers, and there are no tensors for layer {listed(absent)}"
        yield refusal("config.missing-layers", CONFIG, fact, _REMEDY)
    if beyond := sorted(layer for layer in there if layer >= said + extra):
        names = (str(layer) for layer in beyond)
        fact = f"it counts {said} layers, and there are tensors for layer {listed(names)}"
        yield refusal("config.extra-layers", CONFIG, fact, _REMEDY)


def _gaps(there: set[int], said: int) -> list[str]:
    """The first layers below `said` without tensors (a config may claim absurdly many)."""
    gaps: list[str] = []
    for layer in range(max(0, said)):
        if layer not in there:
            gaps.append(str(layer))
        if len(gaps) > 8:
            break
    return gaps
