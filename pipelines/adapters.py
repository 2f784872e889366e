"""Adapters from outside (PEFT): a few matrices that change another model, and mean nothing alone.

What can be told from an adapter's own two files is checked here; that it fits its base is shown
when it is merged. The base is pinned by name and digest in models.yaml: the name that an adapter
gives to its base is a name on a hub, or a path on its trainer's machine, and never bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import (
    AdapterForOtherBase,
    AdapterWithoutBase,
    MalformedFile,
    UnusableSource,
)
from pipelines.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from pipelines.models_file import ModelEntry, ModelsFile
from pipelines.records import Ancestor
from pipelines.references import COMMIT_PATTERN, parse_reference
from pipelines.verification.findings import listed
from pipelines.verification.safetensors_header import Tensor, read_safetensors
from pipelines.verification.strict_json import parse_strict

_LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(\.default)?(\.weight)?"
)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DIGEST = re.compile(r"sha256:(?P<digest>[0-9a-f]{64})")
_BASE_KEY = "base_model_name_or_path"
_REMEDY = "Take another revision of the adapter, or ask its publisher to correct it."


def adapter_base(entry: ModelEntry, model: Path) -> Ancestor | None:
    """The pinned base of the adapter in the folder `model`, or None for whole weights.

    Checks the adapter on the way. Raises AdapterWithoutBase when the entry pins no base,
    AdapterForOtherBase when the adapter names another digest, UnusableSource for an adapter that
    cannot work or a base given to whole weights, and MalformedFile.
    """
    whole = [
        path.name for path in sorted(model.glob("*.safetensors")) if path.name != ADAPTER_WEIGHTS
    ]
    if not (model / ADAPTER_CONFIG).is_file():
        if entry.base is not None:
            fact = f"a base is given, and there is no {ADAPTER_CONFIG}: these are not an adapter"
            raise UnusableSource(entry.reference, fact, "Add it without a base.")
        return None
    if whole or not (model / ADAPTER_WEIGHTS).is_file():
        found = f"whole weights ({listed(whole)})" if whole else f"no {ADAPTER_WEIGHTS}"
        raise UnusableSource(
            entry.reference,
            f"{ADAPTER_CONFIG} lies beside {found}, and loaders that find it load the base that "
            "it names instead",
            "Take a revision that holds one of the two, or leave the other out with exclude.",
        )
    config = read_adapter_config(model)
    check_adapter(entry.reference, config, read_safetensors(model / ADAPTER_WEIGHTS).tensors)
    if entry.base is None:
        raise AdapterWithoutBase(entry.reference, base_name(config))
    stated = _DIGEST.fullmatch(base_name(config))
    if stated and stated["digest"] != entry.base.digest:
        raise AdapterForOtherBase(model, entry.base.digest, stated["digest"])
    return Ancestor(
        name=entry.base.name, weight_digest=entry.base.digest, relation="adapter-of", licences=()
    )


def read_adapter_config(model: Path) -> dict[str, Any]:
    """adapter_config.json of a folder; raises MalformedFile unless it is one JSON object."""
    config = parse_strict((model / ADAPTER_CONFIG).read_bytes(), ADAPTER_CONFIG)
    if not isinstance(config, dict):
        raise MalformedFile(ADAPTER_CONFIG, "json.object", "it holds no JSON object")
    return config


def base_name(config: Mapping[str, Any]) -> str:
    """What an adapter calls its base; '' when it does not say."""
    name = config.get(_BASE_KEY)
    return name if isinstance(name, str) else ""


def check_adapter(reference: str, config: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
    """Refuse a LoRA that cannot be what its configuration says.

    Each target module that is named has matrices; each A (rank, inputs) has its B (outputs, rank),
    and the rank is the configured one. Other kinds of adapters only need tensors.
    Raises UnusableSource.
    """
    if not tensors:
        raise UnusableSource(reference, f"{ADAPTER_WEIGHTS} holds no tensors", _REMEDY)
    if config.get("peft_type") != "LORA":
        return
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        if match := _LORA.fullmatch(tensor.name):
            pairs.setdefault(match["module"], {})[match["part"]] = tensor
    for module, pair in sorted(pairs.items()):
        if fact := _pair_problem(config, module, pair):
            raise UnusableSource(reference, fact, _REMEDY)
    targets = config.get("target_modules")
    if not pairs or not (targets or config.get("target_parameters")):
        raise UnusableSource(reference, "it names no target modules, or has none", _REMEDY)
    # A text is a pattern or "all-linear": it names no module to look for.
    named = [str(target) for target in targets] if isinstance(targets, list) else []
    if absent := [name for name in named if not any(_ends_with(key, name) for key in pairs)]:
        fact = f"it targets {listed(absent)}, and has no matrices for them"
        raise UnusableSource(reference, fact, _REMEDY)


def resolve_base(config: Mapping[str, Any], models: ModelsFile) -> str:
    """The model of the registry that an adapter's configuration means by its base.

    That is the one whose reference is the hub repository (and the commit, where one is named).
    Raises AdapterWithoutBase when there is none or more than one: the adapter's word is only a
    name, so a person then says which with --base.
    """
    wanted = base_name(config)
    if not _HUB_NAME.fullmatch(wanted) or wanted.startswith("."):
        raise AdapterWithoutBase("the adapter", wanted)
    commits: dict[str, str] = {}
    for name, entry in models.models.items():
        reference = parse_reference(entry.reference)
        if reference.scheme == "hf" and reference.where == wanted:
            commits[name] = reference.revision
    revision = config.get("revision")
    if isinstance(revision, str) and COMMIT_PATTERN.fullmatch(revision):
        commits = {name: commit for name, commit in commits.items() if commit == revision}
    if len(commits) != 1:
        raise AdapterWithoutBase("the adapter", wanted, sorted(commits))
    return next(iter(commits))


def _pair_problem(config: Mapping[str, Any], module: str, pair: Mapping[str, Tensor]) -> str:
    if len(pair) != 2:
        missing = "B" if "A" in pair else "A"
        return f"{module} has no lora_{missing}"
    down, up = pair["A"], pair["B"]
    if len(down.shape) < 2 or len(up.shape) < 2 or down.shape[0] != up.shape[1]:
        return f"{module}: lora_A of shape {down.shape} and lora_B of {up.shape} do not multiply"
    if config.get("target_parameters"):  # experts lie in one tensor: the rank times their number
        return ""
    pattern = config.get("rank_pattern")
    ranks = pattern if isinstance(pattern, dict) else {}
    allowed = {config.get("r"), *(rank for key, rank in ranks.items() if _matches(module, key))}
    if down.shape[0] not in allowed:
        return f"{module} has rank {down.shape[0]}, and the configuration says {config.get('r')}"
    return ""


def _matches(module: str, key: str) -> bool:
    """Whether a key of rank_pattern, the end of a name, means this module."""
    return _ends_with(module, key.removeprefix("^").removesuffix("$"))


def _ends_with(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
