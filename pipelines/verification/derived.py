"""What transformers would miss, leave over or find misshapen when it loaded these tensors.

For architectures that `implied.py` does not know. A child process builds the model on the meta
device, which allocates nothing, and gives the library's own loader meta tensors of the shapes that
the headers state, so that every renaming and merging that `from_pretrained` does is done here too.
No weight is read, no code of the repository runs, and the network is off. Importing transformers
costs three CPU seconds: the answer is kept by the digest of everything that it depends on.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from pipelines.canonical import Frozen, canonical_json, sha256_bytes, sha256_file, write_record
from pipelines.errors import CommandFailed, ConfigError
from pipelines.records import read_record
from pipelines.subprocesses import run_module, serve
from pipelines.verification.packed import KEYS, Plain

CPU_LIMIT_S = 120
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "critical",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
_LIBRARY_ERRORS = (
    *(ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, AssertionError),
    *(ImportError, ZeroDivisionError),
)
# Keys that would make a library fetch, import or quantise; `hooks.py` judges them.
_LEFT_OUT = frozenset({
    *KEYS, "auto_map", "attn_implementation", "_attn_implementation", "experts_implementation",
    "_attn_implementation_internal", "use_kernels", "kernel_config", "trust_remote_code", "dtype",
    "torch_dtype", "_experts_implementation", "custom_pipelines", "_name_or_path",
})  # fmt: skip


class Mismatch(Frozen):
    """A tensor whose shape is not the one that the config implies."""

    name: str
    found: tuple[int, ...]
    implied: tuple[int, ...]


class Difference(Frozen):
    """What the loader of an architecture said; `unknown` says why it could not say anything."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[Mismatch, ...] = ()
    unknown: str = ""


class Question(Frozen):
    """One config with the tensors that lie beside it (no shape: it is packed)."""

    config: dict[str, Any]
    tensors: dict[str, tuple[int, ...] | None]


def derive(config: Mapping[str, Any], tensors: Plain) -> Difference:
    """Ask transformers, or the folder where its earlier answers lie."""
    question = Question(config=_plain_config(config), tensors=dict(tensors))
    asked = canonical_json(json.loads(question.model_dump_json()))
    parts = (asked, sha256_file(Path(__file__)).encode(), version("transformers").encode())
    kept = _cache() / f"{sha256_bytes(b'|'.join(parts))}.json"
    if kept.is_file():
        with suppress(ConfigError, OSError):  # cut short or unreadable: ask again
            return read_record(kept, Difference)
    try:
        answer = Difference.model_validate(
            run_module("pipelines.verification.derived", question, env=_OFFLINE)
        )
    except CommandFailed as error:
        return Difference(unknown=f"the child process ended with {error.returncode}")
    with suppress(OSError):  # a home that cannot be written to: the answer holds all the same
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_record(kept, answer)
    return answer


def _cache() -> Path:
    home = os.environ.get("WEIGHBRIDGE_HOME") or os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache", "weighbridge", "derived")


def _plain_config(value: Any) -> Any:
    """A config without what would make a loader fetch, import or quantise, at any depth."""
    if isinstance(value, dict):
        return {k: _plain_config(v) for k, v in value.items() if k not in _LEFT_OUT}
    if isinstance(value, list):
        return [_plain_config(item) for item in value]
    # A number that JSON cannot carry back (transformers writes Infinity) is none of a shape.
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _answer(request: bytes) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    question = Question.model_validate_json(request)
    return _difference(question).model_dump()


def _difference(question: Question) -> Difference:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name = (question.config.get("architectures") or [""])[0]
    kind = question.config.get("model_type")
    model_class = getattr(transformers, name, None) if name.isidentifier() else None
    if kind not in CONFIG_MAPPING or not isinstance(model_class, type):
        return Difference(unknown=f"transformers does not know {name or kind!r}")
    if not issubclass(model_class, transformers.PreTrainedModel):
        return Difference(unknown=f"{name} is no model")
    known: Any = CONFIG_MAPPING
    config_class = known[kind]
    if getattr(model_class, "config_class", None) is not config_class:
        return Difference(unknown=f"{name} takes no {kind} config")
    try:
        config = cast("Any", config_class).from_dict(question.config)
        return _load(model_class, config, question.tensors)
    except _LIBRARY_ERRORS as error:  # any other ends this child, which says as much
        return Difference(unknown=f"{type(error).__name__}: {error}"[:500])


def _load(model_class: Any, config: Any, tensors: Mapping[str, Any]) -> Difference:
    """Run the library's loader on the meta device (transformers 5: `_load_pretrained_model`)."""
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.modeling_utils import LoadStateDictConfig

    with torch.device("meta"):
        model = model_class(config)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # Tensors of unknown shape take the model's own where the names agree.
    shapes = {n: own.get(n, (1,)) if shape is None else shape for n, shape in tensors.items()}
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    settings = LoadStateDictConfig(
        ignore_mismatched_sizes=True,
        weight_mapping=get_model_conversion_mapping(model),
        device_map={"": "meta"},
    )
    info, _ = model_class._load_pretrained_model(model, state, None, settings)
    model.mark_tied_weights_as_initialized(info)
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(info)
    packed = None in tensors.values()
    misshapen = [] if packed else [(k, tuple(a), tuple(b)) for k, a, b in info.mismatched_keys]
    merged = set() if packed else set(info.conversion_errors)
    return Difference(
        missing=tuple(sorted(set() if packed else info.missing_keys | merged)),
        unexpected=tuple(sorted(info.unexpected_keys)),
        misshapen=tuple(Mismatch(name=n, found=f, implied=i) for n, f, i in sorted(misshapen)),
    )


if __name__ == "__main__":
    serve(_answer)
