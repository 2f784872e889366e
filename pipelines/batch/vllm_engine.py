"""vLLM, driven by its step loop. Lives in a process of its own: vLLM gives no memory back."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipelines.batch.engine import Completion, EngineConfig, Request, RequestRefused
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from vllm import SamplingParams


class VllmEngine:
    """One vLLM engine; sets the process environment that vLLM reads when it is imported."""

    def __init__(self, config: EngineConfig) -> None:
        on_cpu = _is_cpu_build()
        os.environ.update(_environment(config, on_cpu))
        import vllm
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        self.name = f"vllm {vllm.__version__}"
        arguments = vllm.EngineArgs(**engine_arguments(config, on_cpu))
        # The defaults of vLLM's own offline class: how many sequences run at once depends on it.
        self._attach(LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS), config)

    def _attach(self, engine: Any, config: EngineConfig) -> None:
        self._engine, self._sampling = engine, config.sampling
        self._schema = config.output_schema
        self._params: dict[int, SamplingParams] = {}
        self._check_schema()
