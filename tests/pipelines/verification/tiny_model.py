"""A tiny honest model repository, written without torch, and ways to break it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

VOCABULARY, WIDTH, LAYERS = 40, 16, 2
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_STRIPPING = {"normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
CARD = "---\nlicense: apache-2.0\n---\n# A tiny model\n"


def apache_text() -> str:
    """The Apache-2.0 licence as a real package ships it."""
    shipped = files("cryptography") or []
    return next(f for f in shipped if f.name == "LICENSE.APACHE").read_text()


def mit_text() -> str:
    """The MIT licence as a real package ships it."""
    shipped = files("pydantic") or []
    return next(f for f in shipped if f.name == "LICENSE").read_text()


def tensors() -> dict[str, np.ndarray[Any, Any]]:
    """Weights of a two-layer decoder with tied embeddings."""
    random = np.random.default_rng(7)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "o"):
            shapes[f"model.layers.{layer}.self_attn.{part}_proj.weight"] = (WIDTH, WIDTH)
        for part in ("gate", "up"):
            shapes[f"model.layers.{layer}.mlp.{part}_proj.weight"] = (2 * WIDTH, WIDTH)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (WIDTH, 2 * WIDTH)
        for part in ("input", "post_attention"):
            shapes[f"model.layers.{layer}.{part}_layernorm.weight"] = (WIDTH,)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def tokenizer() -> dict[str, Any]:
    letters = {chr(97 + number): number + len(CONTROL) for number in range(26)}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": token, "special": True, **_STRIPPING}
            for number, token in enumerate(CONTROL)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {
                "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
            },
        },
        "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        "model": {
            "type": "BPE",
            "vocab": {**{token: number for number, token in enumerate(CONTROL)}, **letters},
            "merges": [],
        },
    }


def tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "added_tokens_decoder": {
            str(number): {"content": token, "special": True} for number, token in enumerate(CONTROL)
        },
    }


def write_model(folder: Path) -> Path:
    """An honest repository as transformers saves it, with card and licence."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    documents = {
        "config.json": config(),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": [2], "do_sample": False},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": tokenizer_config(),
    }
    for name, document in documents.items():
        write_json(folder / name, document)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "LICENSE").write_text(apache_text(), encoding="utf-8")
    return folder


def write_shards(folder: Path) -> Path:
    """The same weights as two shards with an index."""
    (folder / "model.safetensors").unlink()
    weights = tensors()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:4]}
    parts["model-00002-of-00002.safetensors"] = names[4:]
    for shard, members in parts.items():
        save_file({name: weights[name] for name in members}, folder / shard)
    weight_map = {name: shard for shard, members in parts.items() for name in members}
    total = sum(array.nbytes for array in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    return folder


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place; `change` alters what it is given."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    write_json(path, document)
