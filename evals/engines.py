"""lm-eval's model classes for transformers and vLLM, watched and made cheaper on CPU.

Prompts, tokens and scores are lm-eval's own. Three things are added. A request that the model could
only see the end of is refused, where lm-eval cuts it and logs a line. Progress is reported. With
transformers, the vocabulary is scored only at the positions of an answer, and in float32: over
whole prompts it costs as much as half the model, and in bfloat16 neighbouring logits near 16 are
1/8 apart, so that choices tie and lm-eval takes the first (90 of 300 items of a three-letter task
on a 135M model).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pipelines.canonical import Frozen
from pipelines.progress import report

Tokens = Sequence[int]
TokenRequest = tuple[Any, Tokens, Tokens]  # lm-eval's (key, context, continuation)

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
        kind = type("WatchedVLLM", (_WatchedVLLM, get_model("vllm")), {})
        model = kind(**_vllm_arguments(config))
    else:
        import torch

        kind = type("WatchedTransformers", (_WatchedTransformers, get_model("hf")), {})
        model = kind(
            pretrained=config.weights,
            backend="causal",
            dtype=config.dtype,
            softmax_dtype="float32",
            max_length=config.max_length,
            batch_size=config.batch_size,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
    model.what = config.what
    return model


def _context_length(config: EngineConfig) -> int:
    """The tokens that suite and model both allow: transformers would read on and answer badly."""
    from transformers import AutoConfig

    stated = AutoConfig.from_pretrained(config.weights).get_text_config()
    positions = getattr(stated, "max_position_embeddings", None) or config.max_length
    return min(config.max_length, int(positions))


def describe_engine(config: EngineConfig) -> str:
    """Backend, version and kind of device, for the record: two models must share all of them."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.engine == "vllm":
        import vllm

        return f"vllm {vllm.__version__} on {device}"
    import transformers

    return f"transformers {transformers.__version__} on {device}"


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
    max_length: int
    max_gen_toks: int
    tok_encode: Any

    def blocks(self, lengths: Sequence[int]) -> list[list[int]]:
        """Cut requests into blocks of indices that are run one after the other, longest first."""
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        return [order[i : i + VLLM_WAVE] for i in range(0, len(order), VLLM_WAVE)]

    def _loglikelihood_tokens(self, requests: list[TokenRequest], **_: Any) -> list[Any]:
        lengths = [len(context) + len(continuation) for _, context, continuation in requests]
        self._check_lengths(lengths)
        answers: list[Any] = [None] * len(requests)
        done = 0
        for block in self._scoring_blocks(requests, lengths):
            found = self._score_block([requests[i] for i in block])
            for index, answer in zip(block, found, strict=True):
                answers[index] = answer
            done += len(block)
            report(done, len(requests), "requests", self.what)
        return answers

    def _scoring_blocks(
        self, requests: Sequence[TokenRequest], lengths: Sequence[int]
    ) -> list[list[int]]:
        return self.blocks(lengths)

    def _score_block(self, requests: list[TokenRequest]) -> list[Any]:
        return super()._loglikelihood_tokens(requests, disable_tqdm=True)  # type: ignore[misc,no-any-return]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        wanted = [
            int(request.args[1].get("max_gen_toks") or self.max_gen_toks) for request in requests
        ]
        self._check_lengths([a + b for a, b in zip(lengths, wanted, strict=True)])
        answers = [""] * len(requests)
        done = 0
        for block in self.blocks(lengths):
            found = super().generate_until(  # type: ignore[misc]
                [requests[i] for i in block], disable_tqdm=True
            )
            for index, text in zip(block, found, strict=True):
                answers[index] = text
            done += len(block)
            report(done, len(requests), "answers", self.what)
        return answers

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        room = self.max_length - 1  # vLLM keeps one token for an answer; both engines alike
        if long := [length for length in lengths if length > room]:
            raise RequestTooLong(
                f"{len(long)} of {len(lengths)} requests do not fit, the longest has {max(long)} "
                f"tokens where {room} fit"
            )


class _WatchedVLLM(_Watched):
    """vLLM batches by itself; it gets large waves."""


class _WatchedTransformers(_Watched):
    """transformers gets one forward pass a block, the vocabulary only where it is needed."""

    model: Any
    batch_size: int
    keep_last: int | None = None

    def blocks(self, lengths: Sequence[int]) -> list[list[int]]:
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def _scoring_blocks(
        self, requests: Sequence[TokenRequest], lengths: Sequence[int]
    ) -> list[list[int]]:
        # Requests that differ in their last token only share one row, as lm-eval groups them.
        rows: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            rows.setdefault(_row(request), []).append(index)
        keys = sorted(rows, key=lambda row: (-len(row), row))
        return [
            [index for key in keys[i : i + self.batch_size] for index in rows[key]]
            for i in range(0, len(keys), self.batch_size)
        ]

    def _score_block(self, requests: list[TokenRequest]) -> list[Any]:
        # Rows are padded on the right to the longest; the answer's positions of every row lie
        # within the last `keep_last` columns.
        width = max(len(_row(request)) for request in requests)
        self.keep_last = max(width - len(_row(request)) + len(request[2]) for request in requests)
        with _float32_head(self.model):
            try:
                return super()._score_block(requests)
            finally:
                self.keep_last = None

    def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
        if self.keep_last is None or not _keeps_logits(self.model):
            return super()._model_call(inps, attn_mask, labels)  # type: ignore[misc]
        import torch

        with torch.no_grad():
            # lm-eval counts positions from the end of what it is given, so fewer columns are fine.
            return self.model(inps, logits_to_keep=self.keep_last, use_cache=False).logits


def _row(request: TokenRequest) -> tuple[int, ...]:
    """What the model sees: the last token is only ever predicted."""
    _, context, continuation = request
    return (*context, *continuation[:-1])


def _keeps_logits(model: Any) -> bool:
    import inspect

    return "logits_to_keep" in inspect.signature(model.forward).parameters


@contextmanager
def _float32_head(model: Any) -> Iterator[None]:
    """Within the block, a plain linear head of lower precision gives float32 logits."""
    import torch

    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype == torch.float32:
        yield
        return

    def precise(module: Any, inputs: Any, _: Any) -> Any:
        bias = None if module.bias is None else module.bias.float()
        return torch.nn.functional.linear(inputs[0].float(), module.weight.float(), bias)

    hook = head.register_forward_hook(precise)
    try:
        yield
    finally:
        hook.remove()


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
        "OMP_NUM_THREADS": str(_cores()),
        "OMP_WAIT_POLICY": "passive",
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))
