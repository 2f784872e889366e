"""Which engine runs a model, by a rule that can be told before anything is started.

vLLM, where its registry names the architecture of config.json; transformers otherwise. The registry
is read from vLLM's source, since importing vLLM takes 20 s and planning should not.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pipelines.batch.engine import Engine, EngineConfig
from pipelines.batch.job import BatchJob
from pipelines.batch.pooling import pooled
from pipelines.batch.records import AdapterOnDisk, ModelOnDisk
from pipelines.batch.settings import Backend, EngineSettings
from pipelines.batch.tokens import read_config
from pipelines.errors import ConfigError
from pipelines.merge import ADAPTER_CONFIG

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has kernels for
_REGISTRY = ("model_executor", "models", "registry.py")
_CLASSIFIER, _GENERATOR = "ForSequenceClassification", "ForCausalLM"


class EngineChoice(NamedTuple):
    """An engine and the reason for it, as the plan says it."""

    backend: Backend
    reason: str

    def notes(self) -> tuple[str, ...]:
        """What the plan says of it; nothing of vLLM, which is the rule."""
        if self.backend == "vllm":
            return ()
        held = "answers are held against the schema, but not held to it while they are written"
        return (f"answered by transformers, since {self.reason}: slower than vLLM; {held}",)


def choose_engine(job: BatchJob, model: ModelOnDisk) -> EngineChoice:
    """The engine for a job; raises ConfigError for what it could not run."""
    pooled(job.task, model.weights)
    chosen = backend_for(job.engine, model.weights)
    if chosen.backend == "transformers":
        _check_transformers(job, chosen)
    elif model.adapter is not None:
        lora_rank(model.adapter)
    return chosen


def backend_for(settings: EngineSettings, weights: Path) -> EngineChoice:
    """The rule. Where vLLM is not installed, nothing can be told of its registry: vLLM it is."""
    if settings.backend != "auto":
        return EngineChoice(settings.backend, f"engine.backend is {settings.backend}")
    known = vllm_architectures()
    if known is None:
        return EngineChoice("vllm", "vLLM is not installed here to ask for its registry")
    named = [str(name) for name in read_config(weights).get("architectures") or []]
    # vLLM puts a classification head on any model that it can generate with.
    if any(name in known or name.replace(_CLASSIFIER, _GENERATOR) in known for name in named):
        return EngineChoice("vllm", f"vLLM's registry has {', '.join(named)}")
    missing = ", ".join(named) or "what config.json names: nothing"
    return EngineChoice("transformers", f"vLLM's registry does not have {missing}")


def start_engine(config: EngineConfig) -> Engine:
    """Start the engine that the rule names, in this process.

    Raises ConfigError when vLLM is needed and not installed, or cannot hold the schema.
    """
    if backend_for(config.settings, config.weights).backend == "transformers":
        from pipelines.batch.transformers_engine import start_transformers

        return start_transformers(config)
    if vllm_architectures() is None:
        raise ConfigError(
            "engine.backend", "vLLM is not installed", "Install it, or choose transformers."
        )
    from pipelines.batch.vllm_engine import start_vllm

    return start_vllm(config)


def lora_rank(adapter: AdapterOnDisk) -> int:
    """The smallest rank that vLLM can be started with for an adapter; raises ConfigError."""
    config = json.loads((adapter.folder / ADAPTER_CONFIG).read_bytes())
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    highest = max((rank for rank in ranks if isinstance(rank, int)), default=0)
    if highest < 1:
        raise ConfigError("adapter", f"{adapter.name} states no rank", "Use a LoRA adapter.")
    for allowed in LORA_RANKS:
        if highest <= allowed:
            return allowed
    raise ConfigError(
        "adapter",
        f"{adapter.name} has rank {highest}, and the engine takes {LORA_RANKS[-1]} at most",
        "Run the merged release as the job's model instead.",
    )


@cache
def vllm_architectures() -> frozenset[str] | None:
    """Architectures in vLLM's registry, None where vLLM is not installed.

    They are the keys of the tables in its source; a test holds them against the registry itself.
    """
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return None
    source = Path(found.submodule_search_locations[0]).joinpath(*_REGISTRY)
    names: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                # (module, class); the tables of retired models map to a version or an address
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                    names.add(str(key.value))
    return frozenset(names)


def _check_transformers(job: BatchJob, chosen: EngineChoice) -> None:
    """Raises ConfigError for what only vLLM does."""
    refused = {
        "task": (job.task != "generate", f"{job.task} runs on vLLM only"),
        "engine.tensor_parallel": (
            job.engine.tensor_parallel > 1,
            "an engine on transformers runs on one GPU",
        ),
        "sampling": (
            bool(job.sampling.presence_penalty or job.sampling.frequency_penalty),
            "presence_penalty and frequency_penalty are vLLM's",
        ),
    }
    for key, (asked, fact) in refused.items():
        if asked:
            raise ConfigError(key, f"{fact}, and {chosen.reason}", "Use another model or engine.")
