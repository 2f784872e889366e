"""config.json against the tensors: names, shapes, types, and numbers that make no sense.

Families with Llama's layout are judged by closed formulas (`implied.py`), other architectures that
transformers knows by its own loader (`derived.py`), which is started only when every cheaper rule
was silent. What nobody knows gets the rules that hold for every decoder, and a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.records import Finding
from pipelines.verification.config_numbers import judge_numbers
from pipelines.verification.contents import Contents
from pipelines.verification.derived import Difference, Mismatch, derive
from pipelines.verification.dtypes import declared_dtype, judge_dtypes
from pipelines.verification.findings import info, listed, quoted, refusal, refusals
from pipelines.verification.implied import FAMILIES, Implied, implied_tensors, is_leftover
from pipelines.verification.implied_others import implied_otherwise
from pipelines.verification.model_folders import (
    ADAPTER_CONFIG,
    CONFIG,
    MODEL_INDEX,
    ORIGINAL,
    ModelFolder,
    folder_of,
    model_folders,
)
from pipelines.verification.packed import Plain, claims_packing, is_packed, plain_tensors

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
_PREFIX = "model."
MAX_FINDINGS = 8  # of one rule; a wrong config contradicts every tensor


def check(contents: Contents) -> Iterator[Finding]:
    """Presence of weights and config, then what each config implies for the tensors beside it."""
    if not (contents.safetensors or contents.ggufs):
        fact = "there is no readable weights file"
        yield refusal("weights.absent", "", fact, "Check the path and the findings above.")
    yield from _check_presence(contents)
    absurd = set()
    for name, document in contents.objects():
        if name.rpartition("/")[2] == CONFIG:
            for rule, fact in (found for part in _parts(document) for found in judge_numbers(part)):
                absurd.add(name)
                yield refusal(rule, name, fact, _REMEDY)
    for model in model_folders(contents):
        yield from _check_model(model, absurd=model.config_file in absurd)


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    yield from (value for key, value in config.items() if _is_part(key, value))


def _is_part(key: str, value: Any) -> bool:
    return (
        key.endswith("_config") and key not in ("quantization_config",) and isinstance(value, dict)
    )


def _check_presence(contents: Contents) -> Iterator[Finding]:
    """Weights that no config describes are weights that nobody can check."""
    described = {folder_of(n) for n in contents.documents if n.rpartition("/")[2] == CONFIG}
    described |= {folder_of(n) for n in contents.documents if n.endswith(ADAPTER_CONFIG)}
    for name in contents.safetensors:
        folder, base = folder_of(name), name.rpartition("/")[2]
        native = ORIGINAL.fullmatch(base) and f"{folder}params.json" in contents.documents
        if folder in described or native or folder.startswith("original/"):
            continue
        fact = "there are safetensors and no readable config.json beside them"
        yield refusal("config.absent", f"{folder}{CONFIG}", fact, "Fetch the whole repository.")
        if folder:
            yield refusal("config.absent", name, fact, "Remove it, or fetch its config.json.")
    indexed = MODEL_INDEX in contents.documents
    root = contents.object(CONFIG) or ADAPTER_CONFIG in contents.documents
    outside = any("/" not in name for name in contents.safetensors)
    if outside and not (root or indexed or "params.json" in contents.documents):
        fact = "there are safetensors and no readable config.json"
        yield refusal("config.absent", CONFIG, fact, "Fetch the whole repository.")


def _check_model(model: ModelFolder, *, absurd: bool) -> Iterator[Finding]:
    found = [*_check_classes(model), *_check_basics(model), *_check_layers(model)]
    yield from found
    plain = plain_tensors(model.config, model.tensors.values())
    implied = implied_tensors(model.config)
    if implied is not None:
        yield from _report(model, _compare(implied, plain), bool(found))
    elif not found and not absurd and model.config.get("architectures"):
        yield from _report_other(model, plain)
    if method := claims_packing(model.config, model.tensors.values()):
        fact = f"it says that the weights are packed by {method}, and none is"
        yield refusal("config.quantisation", model.config_file, fact, _REMEDY)
    if not is_packed(model.config):
        declared = declared_dtype(model.config, model.text)
        judged = judge_dtypes(declared, model.tensors.values())
        for tensor, fact in _first(judged):
            yield from refusals(
                "config.dtype", model.about(tensor), f"{quoted(tensor)}: {fact}", _REMEDY
            )


def _report_other(model: ModelFolder, plain: Plain) -> Iterator[Finding]:
    """By formula where one fits exactly; else transformers' loader says what does not fit."""
    implied = implied_otherwise(model.config)
    difference = _compare(implied, plain) if implied is not None else None
    if difference == Difference():
        return
    derived = derive(model.config, plain)
    if derived.unknown and difference is not None:
        derived = difference
    yield from _report_derived(model, derived)


def _first(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(found)[:MAX_FINDINGS]


def _check_classes(model: ModelFolder) -> Iterator[Finding]:
    """A known family loads as itself."""
    kind, classes = model.config.get("model_type"), model.config.get("architectures")
    own = FAMILIES[kind].prefix if isinstance(kind, str) and kind in FAMILIES else None
    named = [str(name) for name in classes] if isinstance(classes, list) else []
    families = {family.prefix: key for key, family in FAMILIES.items()}
    for name in named:
        other = re.sub(r"(ForCausalLM|TextModel|Model)$", "", name)
        if other in families and other != own and kind != "gemma3":
            fact = f"model_type is {quoted(kind)}, and the architecture is {quoted(name)}"
            yield refusal("config.architecture", model.config_file, fact, _REMEDY)


def _compare(implied: Implied, plain: Plain) -> Difference:
    """Names as the files have them; a bare model may leave the prefix `model.` out."""
    bare = not any(name.startswith(_PREFIX) for name in plain)
    shapes = {
        name.removeprefix(_PREFIX) if bare else name: shape
        for name, shape in implied.shapes.items()
    }
    misshapen = [
        Mismatch(name=name, found=shape, implied=shapes[name])
        for name, shape in plain.items()
        if shape is not None and shapes.get(name, shape) != shape
    ]
    unexpected = [n for n in plain if n not in shapes and not is_leftover(n, plain[n], shapes)]
    missing = [n for n in shapes if n not in plain and n not in implied.optional]
    return Difference(
        missing=tuple(missing), unexpected=tuple(unexpected), misshapen=tuple(misshapen)
    )


def _report(model: ModelFolder, difference: Difference, told: bool) -> Iterator[Finding]:
    """Findings about config and files; `told` says that the general rules have spoken already."""
    missing = [] if told else list(difference.missing)
    if missing:
        fact = f"the config implies {listed(missing)}, and the files do not have them"
        yield from refusals(
            "config.missing-tensors", model.about(*missing[:MAX_FINDINGS]), fact, _REMEDY
        )
    if difference.unexpected:
        there = _raw(model, difference.unexpected)
        fact = f"the config does not imply {listed(difference.unexpected)}"
        yield from refusals("config.extra-tensors", model.about(*there), fact, _REMEDY)
    for wrong in difference.misshapen[:MAX_FINDINGS]:
        fact = f"{quoted(wrong.name)} has the shape {list(wrong.found)}, "
        fact += f"the config implies {list(wrong.implied)}"
        names = _raw(model, (wrong.name,))
        yield from refusals("config.shape", model.about(*names), fact, _REMEDY)


def _raw(model: ModelFolder, names: Iterable[str]) -> list[str]:
    """Names in the files for names as the loader calls them (it may change their beginning)."""
    found = []
    for name in list(names)[:MAX_FINDINGS]:
        parts = name.split(".")
        raw = name
        while name not in model.holders and len(parts) > 1:
            parts = parts[1:]
            tail = ".".join(parts)
            near = [own for own in model.holders if own == tail or own.endswith(f".{tail}")]
            if near:
                raw = near[0]
                break
        found.append(raw)
    return found


def _report_derived(model: ModelFolder, difference: Difference) -> Iterator[Finding]:
    if difference.unknown:
        fact = f"no rule is known for its tensors: {quoted(difference.unknown, 200)}"
        remedy = "Compare names and shapes with the publisher's own description."
        yield info("config.not-derived", model.config_file, fact, remedy)
        return
    yield from _report(model, difference, False)


def _check_basics(model: ModelFolder) -> Iterator[Finding]:
    packed = is_packed(model.config)
    for name in (*_EMBEDDINGS, *_HEADS):
        tensor = model.tensors.get(name)
        if tensor is None or packed:
            continue
        if len(tensor.shape) != 2:
            fact = f"{name} has the shape {list(tensor.shape)}, not rows of vectors"
            yield from refusals("config.shape", model.about(name), fact, _REMEDY)
            continue
        for key, size in (("vocab_size", tensor.shape[0]), ("hidden_size", tensor.shape[1])):
            said = model.text.get(key)
            if type(said) is int and said != size:
                fact = f"{key} is {said}, and {name} has the shape {list(tensor.shape)}"
                yield from refusals("config.shape", model.about(name), fact, _REMEDY)
    embedding = any(name in model.tensors for name in _EMBEDDINGS)
    head = any(name in model.tensors for name in _HEADS)
    if embedding and not head and _says_untied(model.config, model.text) and _is_causal(model):
        fact = "the config says that input and output embeddings differ, and there is no lm_head"
        yield from refusals("config.tied", model.about("lm_head.weight"), fact, _REMEDY)


def _says_untied(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    values = [
        part["tie_word_embeddings"] for part in (config, text) if "tie_word_embeddings" in part
    ]
    return bool(values) and not any(values)


def _is_causal(model: ModelFolder) -> bool:
    names = model.config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForCausalLM") for name in names)


def _check_layers(model: ModelFolder) -> Iterator[Finding]:
    """Every layer that the config counts has tensors, and no other layer has."""
    text = model.text
    said = next((text[key] for key in _LAYER_COUNT_KEYS if type(text.get(key)) is int), None)
    layers: dict[int, str] = {}
    for name in model.tensors:
        if match := _LAYER.match(name):
            layers.setdefault(int(match[1][:9]), name)
    if said is None or not layers:
        return
    extra = sum(text[key] for key in _EXTRA_LAYER_KEYS if type(text.get(key)) is int)
    if absent := _gaps(set(layers), said):
        fact = f"it counts {said} layers, and there are no tensors for layer {listed(absent)}"
        yield from refusals("config.missing-layers", model.about("model.layers.x"), fact, _REMEDY)
    if beyond := sorted(layer for layer in layers if layer >= said + extra):
        names = (str(layer) for layer in beyond)
        fact = f"it counts {said} layers, and there are tensors for layer {listed(names)}"
        about = model.about(*(layers[layer] for layer in beyond[:MAX_FINDINGS]))
        yield from refusals("config.extra-layers", about, fact, _REMEDY)


def _gaps(there: set[int], said: int) -> list[str]:
    """The first layers below `said` without tensors (a config may claim absurdly many)."""
    gaps: list[str] = []
    for layer in range(max(0, said)):
        if layer not in there:
            gaps.append(str(layer))
        if len(gaps) > 8:
            break
    return gaps
