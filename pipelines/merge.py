"""A LoRA adapter added into its base's weights, tensor by tensor.

The merged model is the base with other numbers in the tensors that the adapter changes: every
other tensor, the configuration, the tokenizer and the chat template keep their bytes. It is what
is served, because vLLM on a CPU runs an adapter five times slower than merged weights.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.canonical import Frozen, canonical_json, write_bytes
from pipelines.digest import list_files, relative_name
from pipelines.errors import AdapterForOtherBase, TrainingRefused

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_BASE_KEY = "base_model_name_or_path"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
# Settings of PEFT under which an adapter is not W + alpha / r · B·A; none of them is trained here.
_PLAIN: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
}
_ABSENT = ("modules_to_save", "rank_pattern", "alpha_pattern", "trainable_token_indices")


class Merge(Frozen):
    """What merging changed; `altered` counts tensors that differ after rounding."""

    adapted: int
    altered: int


def bind_adapter(adapter: Path, base_digest: str) -> None:
    """Make an adapter's configuration name its base by digest, in canonical bytes.

    PEFT writes the path that the base was loaded from, and a set in no fixed order.
    """
    path = adapter / ADAPTER_CONFIG
    config = json.loads(path.read_bytes())
    config[_BASE_KEY] = f"sha256:{base_digest}"
    config["revision"] = None
    config["target_modules"] = sorted(config["target_modules"])
    write_bytes(path, canonical_json(config) + b"\n")


def check_adapter_base(adapter: Path, base_digest: str) -> dict[str, Any]:
    """The adapter's configuration; raises AdapterForOtherBase unless it names this digest.

    A name, a path or a URL says nothing about bytes and is refused like another digest.
    """
    config: dict[str, Any] = json.loads((adapter / ADAPTER_CONFIG).read_bytes())
    stated = config.get(_BASE_KEY)
    if stated != f"sha256:{base_digest}":
        raise AdapterForOtherBase(adapter, base_digest, str(stated or ""))
    return config


def merge_adapter(name: str, base: Path, base_digest: str, adapter: Path, out: Path) -> Merge:
    """Write base + adapter into `out` (new): W' = W + alpha / r · B·A, in float32, rounded to W.

    Shards of the base are read one after the other, so memory is bounded by the largest. Raises
    AdapterForOtherBase, and TrainingRefused when the adapter is not a plain LoRA, adapts a tensor
    that the base's safetensors files do not hold, or changes nothing after rounding.
    """
    config = check_adapter_base(adapter, base_digest)
    _check_plain(name, config)
    updates = _updates(name, adapter, config)
    waiting = set(updates)
    altered = 0
    out.mkdir()
    for path in list_files(base):
        target = out / relative_name(base, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            done, changed = _merge_file(path, target, updates)
            waiting -= done
            altered += changed
        else:
            shutil.copyfile(path, target)
    if waiting:
        raise TrainingRefused(
            name,
            f"the adapter changes {min(waiting)}, which the base's safetensors files do not hold",
            "Choose target_modules whose weights stand under their own names in the base.",
        )
    if not altered:
        raise TrainingRefused(
            name,
            "the merged weights are the base's: no update survived rounding",
            "Train for more steps or at a higher learning rate.",
        )
    return Merge(adapted=len(updates), altered=altered)


def _check_plain(name: str, config: Mapping[str, Any]) -> None:
    odd = [key for key, value in _PLAIN.items() if config.get(key, value) != value]
    odd += [key for key in _ABSENT if config.get(key)]
    if odd:
        raise TrainingRefused(
            name,
            f"the adapter is not a plain LoRA ({', '.join(sorted(odd))})",
            "Train it with a recipe of this repository.",
        )


def _updates(name: str, adapter: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Tensor name to its update alpha / r · B·A, float32, of the tensor's shape."""
    from safetensors.torch import load_file

    parts: dict[str, dict[str, Any]] = {}
    for key, tensor in load_file(adapter / ADAPTER_WEIGHTS).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise TrainingRefused(
                name, f"the adapter holds {key}, which is no LoRA factor", "Train it again."
            )
        parts.setdefault(match["module"], {})[match["part"]] = tensor.float()
    scale = config["lora_alpha"] / config["r"]
    return {
        f"{module}.weight": (factors["B"] @ factors["A"]) * scale
        for module, factors in sorted(parts.items())
    }


def _merge_file(path: Path, target: Path, updates: Mapping[str, Any]) -> tuple[set[str], int]:
    """Copy one safetensors file with the updates added; which were in it, how many changed it."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    done = set(tensors) & set(updates)
    changed = 0
    for key in done:
        merged = (tensors[key].float() + updates[key]).to(tensors[key].dtype)
        changed += not torch.equal(merged, tensors[key])
        tensors[key] = merged
    if done:
        save_file(tensors, target, metadata=metadata)
        os.chmod(target, 0o644)  # save_file leaves it readable by its owner alone
    else:
        shutil.copyfile(path, target)
    return done, changed
