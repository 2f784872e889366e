"""The honest repositories that tamperings start from, written with numpy alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray[Any, Any]]

VOCABULARY, WIDTH, INNER, LAYERS, HEADS, KEYS = 40, 16, 32, 3, 4, 2
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (loop.first and message['role'] == 'system') %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
INDEX = "model.safetensors.index.json"
SHARDS = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def licence_text() -> str:
    """MIT, as a real package ships it."""
    return next(f for f in files("pydantic") or [] if f.name == "LICENSE").read_text()


def weights(layers: int = LAYERS, seed: int = 7, dtype: type = np.float32) -> Arrays:
    """A Llama with untied embeddings."""
    draw = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    keys = WIDTH // HEADS * KEYS
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes |= {
            f"{at}input_layernorm.weight": (WIDTH,),
            f"{at}post_attention_layernorm.weight": (WIDTH,),
            f"{at}self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{at}self_attn.k_proj.weight": (keys, WIDTH),
            f"{at}self_attn.v_proj.weight": (keys, WIDTH),
            f"{at}self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{at}mlp.gate_proj.weight": (INNER, WIDTH),
            f"{at}mlp.up_proj.weight": (INNER, WIDTH),
            f"{at}mlp.down_proj.weight": (WIDTH, INNER),
        }
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)}
    return {
        name: np.ones(shape, dtype)
        if len(shape) == 1
        else draw.normal(0, 0.05, size=shape).astype(dtype)
        for name, shape in shapes.items()
    }


def config(**members: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
        **members,
    }


def tokenizer() -> dict[str, Any]:
    """Byte pairs over the alphabet, with control tokens and a post-processor."""
    letters = {chr(97 + number): number + len(CONTROL) for number in range(26)}
    pairs = {"th": 29, "he": 30, "in": 31, "er": 32}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "special": True, **_PLAIN}
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
            "dropout": None,
            "unk_token": None,
            "vocab": {
                **{token: number for number, token in enumerate(CONTROL)},
                **letters,
                **pairs,
            },
            "merges": [["t", "h"], ["h", "e"], ["i", "n"], ["e", "r"]],
        },
    }


def tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 128,
        "added_tokens_decoder": {
            str(number): {"content": token, "special": True, **_PLAIN}
            for number, token in enumerate(CONTROL)
        },
    }


def papers(folder: Path) -> None:
    """Card and licence."""
    folder.mkdir(parents=True, exist_ok=True)
    card = "---\nlicense: mit\n---\n# A tiny model\n\n```python\nimport transformers\n```\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE").write_text(licence_text(), encoding="utf-8")


def text_files(folder: Path) -> None:
    """Tokenizer, template and generation settings."""
    documents = {
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": [2], "do_sample": False},
        "special_tokens_map.json": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": tokenizer_config(),
    }
    for name, document in documents.items():
        write_json(folder / name, document)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def single(folder: Path, dtype: type = np.float32, **members: Any) -> None:
    """One file of weights."""
    papers(folder)
    text_files(folder)
    write_json(folder / "config.json", config(**members))
    save_file(weights(dtype=dtype), folder / "model.safetensors", metadata={"format": "pt"})


def half(folder: Path) -> None:
    """The same in float16."""
    single(folder, np.float16, torch_dtype="float16")


def sharded(folder: Path) -> None:
    """Three shards and an index."""
    papers(folder)
    text_files(folder)
    write_json(folder / "config.json", config())
    arrays = weights()
    names = sorted(arrays)
    third = -(-len(names) // 3)
    parts = {shard: names[at * third : (at + 1) * third] for at, shard in enumerate(SHARDS)}
    for shard, members in parts.items():
        save_file({n: arrays[n] for n in members}, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, members in parts.items() for name in members}
    total = sum(array.nbytes for array in arrays.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def adapter(folder: Path) -> None:
    """A LoRA of rank 4 on q_proj and v_proj, as PEFT writes it."""
    papers(folder)
    draw = np.random.default_rng(3)
    keys = WIDTH // HEADS * KEYS
    arrays: Arrays = {}
    for layer in range(LAYERS):
        for target, rows in (("q_proj", WIDTH), ("v_proj", keys)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            arrays[f"{at}.lora_A.weight"] = draw.normal(0, 0.1, (4, WIDTH)).astype(np.float32)
            arrays[f"{at}.lora_B.weight"] = draw.normal(0, 0.1, (rows, 4)).astype(np.float32)
    save_file(arrays, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "maker/base",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": ["q_proj", "v_proj"],
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
        "auto_mapping": None,
        "revision": None,
    }
    write_json(folder / "adapter_config.json", said)


def gguf_file(folder: Path) -> None:
    """A Llama as one GGUF file."""
    from tests.corpus.gguf_bytes import honest_gguf

    papers(folder)
    (folder / "model.gguf").write_bytes(honest_gguf().build())


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


BASES: Mapping[str, Callable[[Path], None]] = {
    "single": single,
    "half": half,
    "sharded": sharded,
    "adapter": adapter,
    "gguf": gguf_file,
}
