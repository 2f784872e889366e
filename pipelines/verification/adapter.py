"""Adapters: adapter_config.json against the tensors beside it, as PEFT reads them.

LoRA and its kin are judged tensor by tensor: every A with its B, ranks as the config says, only on
modules that it names. Other kinds of adapter must at least be a kind that PEFT has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, quoted, refusal, refusals, warning, words
from pipelines.verification.model_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, folder_of
from pipelines.verification.safetensors_header import Tensor

_REMEDY = "Fetch the adapter's config and weights again from one revision."
# PeftType (peft/utils/peft_types.py, 0.21); those that save tensors named lora_A and lora_B first.
_LORA = words("LORA ADALORA")
_KINDS = _LORA | words(
    "PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING PREFIX_TUNING BOFT ADAPTION_PROMPT IA3 LOHA "
    "LOKR OFT POLY LN_TUNING VERA FOURIERFT XLORA HRA VBLORA CPT BONE RANDLORA TRAINABLE_TOKENS "
    "SHIRA C3A ROAD WAVEFT DELORA OSF GRALORA CARTRIDGE MISS ARROW TINYLORA"
)
_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_E|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector|ranknum)(?:\.(?:default\.)?(?P<leaf>weight|bias))?(?:\.default)?"
)
# TaskType (peft/utils/peft_types.py, 0.21).
_TASKS = words(
    "SEQ_CLS SEQ_2_SEQ_LM CAUSAL_LM TOKEN_CLS QUESTION_ANS FEATURE_EXTRACTION "
    "TaskType.CAUSAL_LM TaskType.SEQ_CLS"
)
_BIASES = ("none", "all", "lora_only")
MAX_LAYERS = 10_000
MAX_RANK = 16_384
MAX_SCALE = 1_024.0
_CODE_KEYS = ("_custom_modules", "custom_modules")
_FILES = ("corda_config", "eva_config", "loftq_config")


def check(contents: Contents) -> Iterator[Finding]:
    """Every adapter of the repository."""
    weights = {folder_of(n): n for n in contents.safetensors if _is_weights(n)}
    configs = {folder_of(n): n for n in contents.documents if n.endswith(ADAPTER_CONFIG)}
    for folder, name in weights.items():
        if folder not in configs:
            fact = f"{name} lies here without its config"
            yield from refusals(
                "adapter.incomplete", (folder + ADAPTER_CONFIG, name), fact, _REMEDY
            )
    for folder, name in configs.items():
        config = contents.object(name)
        yield from _check_config(name, config)
        there = weights.get(folder)
        if there is None:
            base_here = any(folder_of(file) == folder for file in contents.safetensors)
            if not base_here:
                fact = f"{name} lies here without the weights that it describes"
                absent = f"{folder}adapter_model.safetensors"
                yield from refusals("adapter.incomplete", (absent, name), fact, _REMEDY)
            elif "peft_type" in config:
                fact = "no adapter lies here, and a loader that sees this file fetches the base "
                fact += quoted(config.get("base_model_name_or_path"))
                yield refusal("adapter.incomplete", name, fact, "Remove it.")
            continue
        if str(config.get("peft_type")) in _LORA:
            tensors = contents.safetensors[there].tensors
            for rule, fact in _judge(config, {tensor.name: tensor for tensor in tensors}):
                yield from refusals(rule, (name, there), fact, _REMEDY)
        elif str(config.get("peft_type")) in _KINDS:
            yield from _check_other(config, name, there, contents)


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and all(type(number) is int for number in pair) for pair in value
    )


def _is_weights(name: str) -> bool:
    return ADAPTER_WEIGHTS.fullmatch(name.rpartition("/")[2]) is not None


def _check_other(
    config: Mapping[str, Any], name: str, there: str, contents: Contents
) -> Iterator[Finding]:
    lora = [t.name for t in contents.safetensors[there].tensors if _PART.fullmatch(t.name)]
    if lora:
        fact = f"the config says {quoted(config['peft_type'])}, and {listed(lora)} are LoRA's"
        yield from refusals("adapter.kind", (name, there), fact, _REMEDY)
    else:
        fact = f"its kind is {quoted(config['peft_type'])}, whose tensors were not compared"
        yield warning("adapter.not-derived", name, fact, "Compare them with the base by hand.")


def _check_config(name: str, config: Mapping[str, Any]) -> Iterator[Finding]:
    kind = config.get("peft_type")
    if "peft_type" in config and str(kind) not in _KINDS:
        yield refusal("adapter.kind", name, f"peft_type is {quoted(kind)}, not PEFT's", _REMEDY)
    base, task = config.get("base_model_name_or_path"), config.get("task_type")
    if base is not None and not isinstance(base, str):
        fact = f"base_model_name_or_path is {quoted(base)}, which names no model"
        yield refusal("adapter.base", name, fact, _REMEDY)
    if "peft_type" in config and task is not None and str(task) not in _TASKS:
        yield refusal("adapter.kind", name, f"task_type is {quoted(task)}, not PEFT's", _REMEDY)
    copies = config.get("layer_replication") or []
    flat = [number for pair in copies for number in pair] if _are_pairs(copies) else [-1]
    if any(not 0 <= number <= MAX_LAYERS for number in flat):
        fact = f"layer_replication is {quoted(copies)}: no model has such layers"
        yield refusal("adapter.targets", name, fact, _REMEDY)
    for key in _CODE_KEYS:
        if config.get(key):
            yield refusal("hook.import", name, f"{key} names code that a loader imports", _REMEDY)
    for key in _FILES:
        part = config.get(key)
        files = [v for k, v in part.items() if k.endswith("file")] if isinstance(part, dict) else []
        if any(files):
            fact = f"{key} names the file {quoted(files[0])}, which a loader unpickles"
            yield refusal("hook.path", name, fact, _REMEDY)


def _judge(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    rank, alpha = config.get("r"), config.get("lora_alpha", 8)
    targets = config.get("target_modules") or config.get("target_parameters")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        yield "adapter.rank", f"r is {quoted(rank)}"
        return
    if type(alpha) not in (int, float) or not 0 < alpha <= MAX_SCALE * rank:
        yield "adapter.scale", f"lora_alpha is {quoted(alpha)}, at rank {rank}"
    given = config.get("alpha_pattern")
    for module, value in given.items() if isinstance(given, dict) else ():
        if type(value) not in (int, float) or not 0 < value <= MAX_SCALE * rank:
            yield "adapter.scale", f"alpha_pattern gives {quoted(module)} {quoted(value)}"
    if str(config.get("bias", "none")) not in _BIASES:
        yield "adapter.kind", f"bias is {quoted(config['bias'])}, which PEFT does not know"
    if not targets or not isinstance(targets, str | list):
        yield "adapter.targets", f"target_modules is {quoted(targets)}"
        return
    modules: dict[str, dict[str, Tensor]] = {}
    others: list[str] = []
    for name, tensor in tensors.items():
        match = _PART.fullmatch(name)
        if match is None or not name.startswith(_PREFIX):
            others.append(name)
        elif match["leaf"] != "bias":
            modules.setdefault(match["module"], {})[match["part"]] = tensor
    yield from _judge_modules(config, modules)
    yield from _judge_targets(targets, modules, config)
    yield from _judge_others(config, others, modules)


def _judge_modules(
    config: Mapping[str, Any], modules: Mapping[str, Mapping[str, Tensor]]
) -> Iterator[tuple[str, str]]:
    """A and B of each module: both there, of the rank that the config gives that module."""
    given = config.get("rank_pattern")
    pattern = given if isinstance(given, dict) else {}
    adaptive = config.get("peft_type") == "ADALORA"
    widths: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for module, parts in modules.items():
        a = parts.get("lora_A") or parts.get("lora_embedding_A")
        b = parts.get("lora_B") or parts.get("lora_embedding_B")
        if a is None or b is None:
            yield "adapter.incomplete", f"{quoted(module)} has {listed(parts)} only"
            continue
        rank = _rank(module, config["r"], pattern)
        embedded = "lora_embedding_A" in parts
        if not embedded and not adaptive and (a.shape[:1] != (rank,) or b.shape[1:2] != (rank,)):
            fact = f"{quoted(module)} has the shapes {list(a.shape)} and {list(b.shape)}"
            yield "adapter.rank", f"{fact}, at rank {rank}"
        if config.get("use_dora") and "lora_magnitude_vector" not in parts:
            yield "adapter.incomplete", f"{quoted(module)} has no magnitude, and use_dora is set"
        kind = re.sub(r"\.\d+\.", ".N.", module)
        widths.setdefault((kind, "A"), set()).add(a.shape[1:])
        widths.setdefault((kind, "B"), set()).add(b.shape[:1])
    for (kind, part), found in widths.items():
        if len(found) > 1 and not pattern:
            fact = f"{quoted(kind)} has {part} of several widths: {sorted(found)}"
            yield "adapter.shape", fact


def _rank(module: str, rank: int, pattern: Mapping[str, Any]) -> int:
    """As peft does (get_pattern_key): a key that ends the module's name, as a regex."""
    for key, value in pattern.items():
        if (module.endswith(key) or _matches(rf".*\.{key}", module)) and type(value) is int:
            return value
    return rank


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error:
        return False


def _judge_targets(
    targets: str | list[Any], modules: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    names = [module.removeprefix(_PREFIX) for module in modules]
    if isinstance(targets, str):
        if targets != "all-linear":
            odd = [name for name in names if not _matches(targets, name)]
            if odd:
                yield "adapter.targets", f"{listed(odd)} are not matched by {quoted(targets)}"
        return
    wanted = [str(target) for target in targets]
    odd = [n for n in names if not any(n == t or n.endswith(f".{t}") for t in wanted)]
    if odd and not config.get("target_parameters"):
        yield "adapter.targets", f"{listed(odd)} are adapted, and target_modules does not name them"
    idle = [t for t in wanted if not any(n == t or n.endswith(f".{t}") for n in names)]
    if idle:
        yield "adapter.targets", f"target_modules names {listed(idle)}, which nothing adapts"
    yield from _judge_layers(names)


def _judge_layers(names: list[str]) -> Iterator[tuple[str, str]]:
    """A module is adapted in every layer or, with layers_to_transform, in a run of them."""
    layers: dict[str, set[int]] = {}
    for name in names:
        match = re.search(r"\.(\d+)\.", name)
        if match is not None:
            kind = name[: match.start()] + ".N." + name[match.end() :]
            layers.setdefault(kind, set()).add(int(match[1][:9]))
    every = set().union(*layers.values()) if layers else set()
    for kind, found in layers.items():
        if len(layers) > 1 and (gap := every - found) and len(gap) <= len(found) // 2:
            fact = f"{quoted(kind)} is adapted in other layers, not in {listed(map(str, gap))}"
            yield "adapter.incomplete", fact


def _judge_others(
    config: Mapping[str, Any], others: list[str], modules: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Whole layers come only where modules_to_save, biases or tied embeddings say so."""
    given = config.get("modules_to_save")
    saved = [str(name) for name in given] if isinstance(given, list) else []
    biases = str(config.get("bias", "none"))
    odd = []
    for name in others:
        layer = name.removeprefix(_PREFIX).rsplit(".", 1)[0]
        named = any(
            layer == s or layer.endswith(f".{s}") or f".{s}." in f".{layer}." for s in saved
        )
        bias = name.endswith(".bias") and biases in ("all", "lora_only")
        embedding = name.endswith(("embed_tokens.weight", "lm_head.weight")) and saved
        if not (name.startswith(_PREFIX) and (named or bias or embedding)):
            odd.append(name)
    if odd:
        yield "adapter.extra-tensors", f"{listed(odd)} are no part of a LoRA, nor saved whole"
    for want in saved:
        if not any(f".{want}." in f".{name}." for name in others):
            yield "adapter.incomplete", f"modules_to_save names {quoted(want)}, which is not there"
