"""A model folder with a real but tiny tokenizer and no weights, and a schema."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipelines.batch.records import ModelOnDisk
from pipelines.template import template_sha256

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
