"""transformers, for architectures that vLLM does not have: static batches of similar lengths.

A batch runs until its longest answer is done, so it is a third as fast as vLLM at the best of
times. A schema is not held while writing, only held against the answer: small models then fail
more rows than on vLLM.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from pipelines.batch.engine import (
    Completion,
    EngineConfig,
    Request,
    RequestRefused,
    seed,
    temperature,
)
from pipelines.batch.settings import Sampling

BATCH = 32  # requests
BATCH_TOKENS = 65_536  # prompt and longest answer, padded; bounds the KV cache


class TransformersEngine:
    """One model in this process; a step answers one batch."""

    def __init__(self, model: Any, tokenizer: Any, config: EngineConfig) -> None:
        self._model, self._tokenizer, self._config = model, tokenizer, config
        self._waiting: list[Request] = []

    @property
    def name(self) -> str:
        return f"transformers {version('transformers')}"

    @property
    def max_num_seqs(self) -> int:
        return self._config.settings.max_num_seqs or BATCH

    def add(self, request: Request) -> None:
        limit = self._config.max_model_len
        needed = len(request.prompt_token_ids) + self._sampling(request).max_tokens
        if needed > limit:
            raise RequestRefused(f"{needed} tokens with the longest answer, and there are {limit}")
        self._waiting.append(request)

    def step(self) -> list[Completion]:
        """Answer the longest prompts that wait, and those most like them in length."""
        batch = self._take_batch()
        if not batch:
            return []
        import torch

        sampling = self._sampling(batch[0])
        width = max(len(request.prompt_token_ids) for request in batch)
        pad = self._pad_id()
        padding = [width - len(request.prompt_token_ids) for request in batch]
        rows = [[pad] * p + r.prompt_token_ids for p, r in zip(padding, batch, strict=True)]
        mask = [[0] * p + [1] * (width - p) for p in padding]
        device = self._model.device
        torch.manual_seed(seed(sampling, batch[0]))
        with torch.inference_mode():
            written = self._model.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                **self._arguments(sampling, batch[0].attempt),
            )
        answers = written[:, width:].tolist()
        return [self._completion(r, ids) for r, ids in zip(batch, answers, strict=True)]

    def close(self) -> None:
        del self._model

    def _sampling(self, request: Request) -> Sampling:
        return request.sampling or self._config.sampling

    def _take_batch(self) -> list[Request]:
        """Requests of one sampling and one temperature, within both bounds; at least one."""
        if not self._waiting:
            return []
        self._waiting.sort(key=lambda request: -len(request.prompt_token_ids))
        first = self._waiting[0]
        sampling, retried = self._sampling(first), first.attempt > 1
        room = BATCH_TOKENS // (len(first.prompt_token_ids) + sampling.max_tokens)
        most = max(1, min(self.max_num_seqs, room))
        batch = [
            request
            for request in self._waiting
            if self._sampling(request) == sampling and (request.attempt > 1) == retried
        ][:most]
        taken = {request.key for request in batch}
        self._waiting = [request for request in self._waiting if request.key not in taken]
        return batch

    def _arguments(self, sampling: Sampling, attempt: int) -> dict[str, Any]:
        """Arguments of `generate`; what the model's own generation config asks for is overruled."""
        heat = temperature(sampling, attempt)
        arguments: dict[str, Any] = {
            "max_new_tokens": sampling.max_tokens,
            "min_new_tokens": sampling.min_tokens or None,
            "do_sample": heat > 0,
            "temperature": heat if heat > 0 else None,
            "top_p": sampling.top_p if heat > 0 else None,
            "top_k": (sampling.top_k or 0) if heat > 0 else None,
            "repetition_penalty": sampling.repetition_penalty,
            "pad_token_id": self._pad_id(),
        }
        if sampling.stop:
            arguments |= {"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer}
        return arguments

    def _completion(self, request: Request, ids: list[int]) -> Completion:
        """One answer: up to its end token, or to a stop text, which is left out."""
        ends = self._end_ids() | {self._pad_id()}  # a batch that goes on pads what has ended
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        kept = ids if end is None else ids[:end]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        stops = [text.index(stop) for stop in self._sampling(request).stop if stop in text]
        stopped = end is not None or bool(stops)
        return Completion(
            key=request.key,
            text=text[: min(stops)] if stops else text,
            finish_reason="stop" if stopped else "length",
            completion_tokens=len(kept) + (end is not None),
            cached_tokens=0,
        )

    def _end_ids(self) -> frozenset[int]:
        found = self._model.generation_config.eos_token_id
        ids = found if isinstance(found, list) else [found]
        return frozenset(token for token in ids if token is not None)

    def _pad_id(self) -> int:
        """Any token will do: it is masked, and an answer is cut at its end token."""
        for found in (self._tokenizer.pad_token_id, *sorted(self._end_ids())):
            if found is not None:
                return int(found)
        return 0


def start_transformers(config: EngineConfig) -> TransformersEngine:
    """Load the model from its folder, without its code, onto a GPU where there is one."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(config.settings.cpu_threads)
    model = AutoModelForCausalLM.from_pretrained(
        config.weights, dtype="auto", trust_remote_code=False, local_files_only=True
    )
    if config.adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, config.adapter.folder).merge_and_unload()
    # The very tokenizer that encoded the prompts, whatever class the architecture goes by.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(config.weights / "tokenizer.json"))
    model.eval().to("cuda" if on_gpu else "cpu")
    return TransformersEngine(model, tokenizer, config)
