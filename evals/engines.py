"""lm-eval's model classes for transformers and vLLM, watched, and made cheaper on CPU.

Prompts, tokens and metrics are lm-eval's own. A request that the model could only see the end of is
refused, where lm-eval cuts it and logs a line; progress is reported; and transformers scores the
answers to one prompt together where it can (evals.packed).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

from evals.block_store import Tokens
from evals.packed import Answer, TokenRequest, can_pack, pack, score_rows
from pipelines.canonical import Frozen
from pipelines.progress import report

VLLM_WAVE = 256  # requests handed to vLLM at once, so that progress is seen


class EngineConfig(Frozen):
    """How to load a model for scoring."""

    engine: Literal["transformers", "vllm"]
    weights: str
    dtype: str
    batch_size: int
    max_length: int
    seed: int
    what: str  # shown with progress


class RequestTooLong(Exception):
    """Inside the child only: its parent turns this into UnusableEvidence."""


def load_engine(config: EngineConfig) -> Any:
    """An lm-eval model, for `lm_eval.simple_evaluate(model=…)`."""
    from lm_eval.api.registry import get_model

    config = config.model_copy(update={"max_length": _context_length(config)})
    if config.engine == "vllm":
        kind = type("WatchedVLLM", (_Watched, get_model("vllm")), {})
        model = kind(**_vllm_arguments(config))
        model.block_size = VLLM_WAVE
    else:
        import torch

        kind = type("WatchedTransformers", (_Packing, _Watched, get_model("hf")), {})
        model = kind(
            pretrained=config.weights,
            backend="causal",
            dtype=config.dtype,
            softmax_dtype="float32",
            max_length=config.max_length,
            batch_size=config.batch_size,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        model.block_size = config.batch_size
    model.what = config.what
    return model


def describe_engine(config: EngineConfig) -> str:
    """Backend, version and kind of device, for the record: two models must share all of them."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.engine == "vllm":
        import vllm

        return f"vllm {vllm.__version__} on {device}"
    import transformers

    return f"transformers {transformers.__version__} on {device}"


def _context_length(config: EngineConfig) -> int:
    """The tokens that suite and model both allow: transformers would read on and answer badly."""
    from transformers import AutoConfig

    stated = AutoConfig.from_pretrained(config.weights).get_text_config()
    positions = getattr(stated, "max_position_embeddings", None) or config.max_length
    return min(config.max_length, int(positions))


def _vllm_arguments(config: EngineConfig) -> dict[str, Any]:
    import torch

    arguments: dict[str, Any] = {
        "pretrained": config.weights,
        "dtype": config.dtype,
        "max_model_len": config.max_length,
        "seed": config.seed,
        "batch_size": "auto",
    }
    if not torch.cuda.is_available():  # compiling takes minutes on CPU, and saves none
        arguments |= {"enforce_eager": True, "distributed_executor_backend": "uni"}
    return arguments


class _Watched:
    """Mixed into a model class of lm-eval; `what` names the work in progress lines."""

    what = "evaluate"
    block_size = 1
    prompt_tokens = 0
    generated_tokens = 0
    max_length: int
    max_gen_toks: int
    tok_encode: Any
    tokenizer: Any

    def take_tokens(self) -> Tokens:
        """The tokens read and written since this was last asked."""
        taken = Tokens(prompt=self.prompt_tokens, generated=self.generated_tokens)
        self.prompt_tokens = self.generated_tokens = 0
        return taken

    def _loglikelihood_tokens(self, requests: list[TokenRequest], **_: Any) -> list[Answer]:
        self._check_lengths([len(context) + len(answer) for _, context, answer in requests])
        return self._score(requests)

    def _score(self, requests: list[TokenRequest]) -> list[Answer]:
        def run(block: list[TokenRequest]) -> list[Answer]:
            return super(_Watched, self)._loglikelihood_tokens(  # type: ignore[misc,no-any-return]
                block, disable_tqdm=True
            )

        lengths = [len(context) + len(answer) for _, context, answer in requests]
        self.prompt_tokens += sum(lengths)
        return self._in_blocks(requests, lengths, run, "requests")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        def run(block: list[Any]) -> list[str]:
            return super(_Watched, self).generate_until(  # type: ignore[misc,no-any-return]
                block, disable_tqdm=True
            )

        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        wanted = [
            int(request.args[1].get("max_gen_toks") or self.max_gen_toks) for request in requests
        ]
        self._check_lengths([a + b for a, b in zip(lengths, wanted, strict=True)])
        answers = self._in_blocks(requests, lengths, run, "answers")
        self.prompt_tokens += sum(lengths)
        written = self.tokenizer(answers, add_special_tokens=False)["input_ids"]
        self.generated_tokens += sum(map(len, written))
        return answers

    def _in_blocks(
        self,
        requests: Sequence[Any],
        lengths: Sequence[int],
        run: Callable[[list[Any]], list[Any]],
        unit: str,
    ) -> list[Any]:
        """Run blocks of requests, longest first, and return the answers in the given order."""
        order = sorted(range(len(requests)), key=lambda i: (-lengths[i], i))
        answers: list[Any] = [None] * len(requests)
        for start in range(0, len(order), self.block_size):
            block = order[start : start + self.block_size]
            for index, answer in zip(block, run([requests[i] for i in block]), strict=True):
                answers[index] = answer
            report(start + len(block), len(order), unit, self.what)
        return answers

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        room = self.max_length - 1  # vLLM keeps one token for an answer; both engines alike
        if long := [length for length in lengths if length > room]:
            raise RequestTooLong(
                f"{len(long)} of {len(lengths)} requests do not fit, the longest has {max(long)} "
                f"tokens where {room} fit"
            )


class _Packing:
    """Mixed into a watched transformers model: answers that share a prompt are scored together."""

    model: Any
    what: str
    block_size: int
    max_length: int
    prompt_tokens: int

    def _score(self, requests: list[TokenRequest]) -> list[Answer]:
        if not can_pack(self.model):
            return super()._score(requests)  # type: ignore[misc,no-any-return]
        rows = pack(requests, self.max_length)
        self.prompt_tokens += sum(len(row.tokens) for row in rows)
        answers: dict[int, Answer] = {}
        for start in range(0, len(rows), self.block_size):
            answers |= score_rows(self.model, rows[start : start + self.block_size])
            report(len(answers), len(requests), "requests", self.what)
        return [answers[index] for index in range(len(requests))]


def scoring_environment() -> dict[str, str]:
    """Environment of the child: offline, silent, and with one thread per core that sleeps idle.

    Threads that spin while they wait made the same work three times as expensive on a machine with
    other work on it (measured: 4.5 against 1.5 CPU seconds for 2,048 tokens).
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "OMP_WAIT_POLICY": "passive",
    }
