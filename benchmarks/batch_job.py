"""A finished-in-seconds batch job of any size, with an engine that costs nothing, for benchmarks.

The engine stands where vLLM would: what is measured is what surrounds it.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.batch.engine import Completion, Engine, EngineConfig, Request
from pipelines.batch.job import BatchJob, Limits
from pipelines.batch.records import ModelOnDisk
from pipelines.template import template_sha256

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["red", "green"]}, "number": {"type": "integer"}},
    "required": ["label", "number"],
    "additionalProperties": False,
}


class InstantEngine:
    """Answers every request at the next step."""

    name = "instant 1"
    max_num_seqs = 256

    def __init__(self, _: EngineConfig) -> None:
        self._waiting: list[Request] = []

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def step(self) -> list[Completion]:
        ended, self._waiting = self._waiting, []
        return [
            Completion(
                key=request.key,
                text=json.dumps({"label": "red", "number": request.row}),
                finish_reason="stop",
                completion_tokens=16,
                cached_tokens=0,
            )
            for request in ended
        ]

    def close(self) -> None:
        """Nothing to give back."""


def make_engine(config: EngineConfig) -> Engine:
    """An instant engine."""
    return InstantEngine(config)


def make_corpus(path: Path, documents: int) -> None:
    """JSON lines of about 60 characters."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(documents):
            line = {"id": f"d{number}", "text": f"This is document number {number} of many."}
            file.write(json.dumps(line) + "\n")


def make_model(folder: Path) -> ModelOnDisk:
    """A byte-level tokenizer without weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (folder / "tokenizer_config.json").write_text("{}")
    return ModelOnDisk(
        name="instant@production",
        weights=folder,
        weight_digest="ab" * 32,
        template_sha256=template_sha256(folder),
    )


def make_job(corpus: Path, output: str, name: str = "benchmark") -> BatchJob:
    """One question about every line, a thousand rows a shard."""
    return BatchJob.model_validate(
        {
            "name": name,
            "model": "instant@production",
            "corpus": {"path": str(corpus), "kind": "jsonl"},
            "classification": "internal",
            "prompt": {"template": "Which colour?\n{{ text }}"},
            "output_schema": SCHEMA,
            "sampling": {"max_tokens": 16},
            "limits": Limits(max_error_rate=0).model_dump(),
            "output": output,
        }
    )
