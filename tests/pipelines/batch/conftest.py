"""A model folder with a real but tiny tokenizer, and jobs over small corpora."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipelines.batch.job import BatchJob, Corpus, Limits, Prompt
from pipelines.batch.records import ModelOnDisk
from pipelines.template import template_sha256

sys.path.insert(0, str(Path(__file__).parent))  # for scripted_engine

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["red", "green", "blue"]},
        "number": {"type": "integer", "minimum": 0, "maximum": 10**30},
    },
    "required": ["label", "number"],
    "additionalProperties": False,
}


def make_tiny_model(folder: Path, template: str = TEMPLATE) -> ModelOnDisk:
    """A byte-level tokenizer (one token a byte), a chat template and a context of 512 tokens."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return ModelOnDisk(
        name="tiny@production",
        weights=folder,
        weight_digest="ab" * 32,
        template_sha256=template_sha256(folder),
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelOnDisk:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Forty documents of text."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(40):
        (folder / f"document-{number:03}.txt").write_text(f"This is document {number}.\n")
    return folder


@pytest.fixture
def make_job(tmp_path: Path, corpus: Path) -> Callable[..., BatchJob]:
    """A job over `corpus` with eight rows a shard; keywords change it."""

    def make(**changes: Any) -> BatchJob:
        given: dict[str, Any] = {
            "name": "colours",
            "model": "tiny@production",
            "corpus": Corpus(path=corpus),
            "classification": "internal",
            "prompt": Prompt(template="Which colour?\n{{ text }}"),
            "output_schema": SCHEMA,
            "sampling": {"max_tokens": 64},
            "engine": {"max_in_flight": 12},
            "limits": Limits(max_error_rate=1.0),
            "shard_rows": 8,
            "output": str(tmp_path / "out"),
        }
        return BatchJob.model_validate({**given, **changes})

    return make
