"""Honest repositories in the shapes that publishers give them; none of them may be refused.

Models come from transformers' own classes and `save_pretrained`; what other programs write
(quantised checkpoints, card, papers, old layouts) is laid out as they do it.
"""

# One line a setting.
# ruff: noqa: E501
from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.corpus import bases
from tests.corpus.honest_publishers import PUBLISHED
from tests.tiny_families import FAMILIES, adapter
from tests.tiny_models import BOS, EOS, byte_tokenizer

Make = Callable[[Path], None]
_SIZES: dict[str, Any] = {
    "vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": EOS,
}  # fmt: skip
_OTHERS: Mapping[str, dict[str, Any]] = {
    "Gemma": {"head_dim": 8},
    "Gemma3Text": {"head_dim": 8},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2,
                 "shared_expert_intermediate_size": 32},
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "head_dim": 8},
    "Granite": {}, "Olmo2": {}, "SmolLM3": {}, "StableLm": {}, "Cohere": {},
    "GPTNeoX": {}, "Phi": {},
    "DeepseekV3": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                   "n_group": 1, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
                   "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
                   "first_k_dense_replace": 1, "num_key_value_heads": 4},
}  # fmt: skip
_CLASSES = {"Gemma3Text": "Gemma3ForCausalLM"}


def _causal(name: str, dtype: str = "float32", **members: Any) -> Make:
    def make(folder: Path) -> None:
        import torch
        import transformers

        torch.manual_seed(2)
        config = getattr(transformers, f"{name}Config")(
            **{**_SIZES, **_OTHERS.get(name, {}), **members}
        )
        model = getattr(transformers, _CLASSES.get(name, f"{name}ForCausalLM"))(config)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        byte_tokenizer(pad_token="<|endoftext|>").save_pretrained(folder)

    return make


def _old_gpt2(folder: Path) -> None:
    """GPT-2 as it was published: bare names, attention masks among the tensors, few settings."""
    import torch
    from safetensors.torch import save_file as save
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(2)
    model = GPT2Model(GPT2Config(vocab_size=272, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64).clone()
    folder.mkdir(parents=True)
    save(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_ctx": 64, "n_embd": 32,
            "n_head": 4, "n_layer": 2, "n_positions": 64, "vocab_size": 272,
            "activation_function": "gelu_new", "bos_token_id": BOS, "eos_token_id": EOS,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}  # fmt: skip
    bases.write_json(folder / "config.json", said)
    byte_tokenizer().save_pretrained(folder)


def _old_llama(folder: Path) -> None:
    """Rotary buffers in every layer, pad id -1, `_name_or_path` and a version of long ago."""
    bases.single(folder, np.float16, torch_dtype="float16", pad_token_id=-1, _name_or_path="org/old",
                 transformers_version="4.28.1", use_cache=True, tie_word_embeddings=False)  # fmt: skip
    path = folder / "model.safetensors"
    arrays = load_file(path)
    for layer in range(bases.LAYERS):
        frequencies = np.array([1.0, 0.01], np.float32)
        arrays[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = frequencies
    path.unlink()
    save_file(arrays, path, metadata={"format": "pt"})


def _linears(arrays: bases.Arrays) -> list[str]:
    return [n.removesuffix(".weight") for n in arrays if ".self_attn." in n or ".mlp." in n]


def _packed(method: str, pack: Callable[[str, Any], bases.Arrays], **settings: Any) -> Make:
    """A checkpoint whose linear layers `pack` replaces."""

    def make(folder: Path) -> None:
        quantisation = {"quant_method": method, **settings}
        bases.single(folder, np.float16, torch_dtype="float16", quantization_config=quantisation)
        path = folder / "model.safetensors"
        arrays = load_file(path)
        for name in _linears(arrays):
            arrays.update(pack(name, arrays.pop(f"{name}.weight")))
        path.unlink()
        save_file(arrays, path, metadata={"format": "pt"})

    return make


def _words(*shape: int) -> Any:
    return np.random.default_rng(5).integers(-(2**31), 2**31 - 1, shape).astype(np.int32)


def _scales(*shape: int) -> Any:
    return np.random.default_rng(6).random(shape).astype(np.float16) + np.float16(0.01)


def _gptq(name: str, weight: Any) -> bases.Arrays:
    rows, columns = weight.shape
    groups = max(1, columns // 16)
    return {
        f"{name}.qweight": _words(columns // 8, rows),
        f"{name}.qzeros": _words(groups, max(1, rows // 8)),
        f"{name}.scales": _scales(groups, rows),
        f"{name}.g_idx": np.arange(columns, dtype=np.int32) // 16,
        f"{name}.bias": np.zeros(rows, np.float16),
    }


def _awq(name: str, weight: Any) -> bases.Arrays:
    rows, columns = weight.shape
    groups = max(1, columns // 16)
    return {
        f"{name}.qweight": _words(columns, rows // 8),
        f"{name}.qzeros": _words(groups, max(1, rows // 8)),
        f"{name}.scales": _scales(groups, rows),
    }


def _eight_bits(name: str, weight: Any) -> bases.Arrays:
    whole = np.random.default_rng(weight.size).integers(-127, 127, weight.shape).astype(np.int8)
    return {
        f"{name}.weight": whole,
        f"{name}.SCB": np.ones(weight.shape[0], np.float32),
        f"{name}.weight_format": np.zeros((), np.uint8),
    }


def _four_bits(name: str, weight: Any) -> bases.Arrays:
    data = np.random.default_rng(7).integers(0, 255, (weight.size // 2, 1)).astype(np.uint8)
    return {
        f"{name}.weight": data,
        f"{name}.weight.absmax": np.ones(max(1, weight.size // 64), np.float32),
        f"{name}.weight.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
        f"{name}.weight.quant_state.bitsandbytes__nf4": np.frombuffer(b'{"quant_type": "nf4"}', np.uint8),
    }  # fmt: skip


def _fp8(folder: Path) -> None:
    """FP8 blocks with inverse scales, the header written by hand (numpy has no such type)."""
    settings = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    bases.single(folder, np.float16, torch_dtype="float16", quantization_config=settings)
    arrays = load_file(folder / "model.safetensors")
    draw = np.random.default_rng(8)
    parts: list[tuple[str, str, tuple[int, ...], bytes]] = []
    for name, array in arrays.items():
        if name.removesuffix(".weight") in _linears(arrays):
            body = draw.integers(0, 100, array.shape).astype(np.uint8).tobytes()
            parts.append((name, "F8_E4M3", array.shape, body))
            parts.append((f"{name}_scale_inv", "F32", (1, 1), np.float32(0.01).tobytes()))
        else:
            parts.append((name, "F16", array.shape, array.tobytes()))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape, body in parts:
        said = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(body)]}
        header[name] = said
        at += len(body)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    data = struct.pack("<Q", len(raw)) + raw + b"".join(body for *_, body in parts)
    (folder / "model.safetensors").write_bytes(data)


def _with(change: Callable[[Path], object], base: Make = bases.single) -> Make:
    def make(folder: Path) -> None:
        base(folder)
        change(folder)

    return make


def _publisher(folder: Path) -> None:
    """All that lies beside a model on a hub."""
    from tests.corpus.tamper_formats import _PNG

    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "assets").mkdir()
    (folder / "assets" / "figure.png").write_bytes(_PNG)
    (folder / "USE_POLICY.md").write_text("# Use\n\nSee https://example.org/policy and be kind.\n")
    (folder / "original").mkdir()
    bases.write_json(folder / "original/params.json", {"dim": 16, "n_layers": 3, "n_heads": 4})
    save_file(bases.weights(), folder / "original/consolidated.safetensors")


def _templates(folder: Path) -> None:
    """Templates by name beside the default, and in tokenizer_config.json too."""
    more = folder / "additional_chat_templates"
    more.mkdir()
    tools = "{% if tools %}{{ tools | tojson }}{% endif %}" + bases.TEMPLATE
    (more / "tool_use.jinja").write_text(tools)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "default", "template": bases.TEMPLATE}, {"name": "tool_use", "template": tools},
    ]  # fmt: skip
    bases.write_json(folder / "tokenizer_config.json", config)


def _sentencepiece(folder: Path) -> None:
    """A sentencepiece model as its trainer writes it."""
    import io

    import sentencepiece

    text = ["the river runs through the town"] * 20 + ["and the hills are green"] * 20
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=out, vocab_size=35, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(out.getvalue())


def _split_vocabulary(folder: Path) -> None:
    """vocab.json and merges.txt, as tokenizers saved them beside tokenizer.json."""
    model = bases.tokenizer()["model"]
    bases.write_json(folder / "vocab.json", model["vocab"])
    lines = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n")
    bases.write_json(folder / "added_tokens.json", {"<|im_end|>": 2, "<|im_start|>": 1})


def _trained_adapter(folder: Path) -> None:
    """What PEFT writes before its first step, with a card."""
    adapter(folder)
    bases.papers(folder)


def _papers(make: Make) -> Make:
    def whole(folder: Path) -> None:
        make(folder)
        bases.papers(folder)

    return whole


def _edit(name: str, **members: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        document.update(members)
        bases.write_json(folder / name, document)

    return change


def _dtype_key(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    document["dtype"] = document.pop("torch_dtype")
    bases.write_json(folder / "config.json", document)


_GPTQ = {"bits": 4, "group_size": 16, "desc_act": False, "sym": True, "damp_percent": 0.1}
_AWQ = {"bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
_NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}

HONEST: Mapping[str, Make] = {
    **PUBLISHED,
    **{name: _papers(make) for name, make in FAMILIES.items()},
    **{name.lower(): _papers(_causal(name)) for name in _OTHERS},
    "llama-tied": _papers(_causal("Llama", tie_word_embeddings=True)),
    "llama-bfloat16": _papers(_causal("Llama", "bfloat16")),
    "qwen2-float16": _papers(_causal("Qwen2", "float16")),
    "qwen3-tied-bfloat16": _papers(_causal("Qwen3", "bfloat16", tie_word_embeddings=True, head_dim=8)),
    "mistral-head-dim": _papers(_causal("Mistral", head_dim=16)),
    "llama-biases": _papers(_causal("Llama", attention_bias=True, mlp_bias=True)),
    "gpt2-old": _papers(_old_gpt2),
    "llama-old": _old_llama,
    "plain": bases.single,
    "shards": bases.sharded,
    "gguf-llama": bases.gguf_file,
    "adapter-plain": bases.adapter,
    "adapter-fresh": _trained_adapter,
    "gptq": _packed("gptq", _gptq, **_GPTQ),
    "awq": _packed("awq", _awq, **_AWQ),
    "eight-bits": _packed("bitsandbytes", _eight_bits, load_in_8bit=True),
    "four-bits": _packed("bitsandbytes", _four_bits, **_NF4),
    "fp8": _fp8,
    "publisher": _with(_publisher),
    "templates": _with(_templates),
    "sentencepiece": _with(_sentencepiece),
    "split-vocabulary": _with(_split_vocabulary),
    "dtype-key": _with(_dtype_key),
    "name-or-path": _with(_edit("config.json", _name_or_path="/home/me/checkpoints/step-400")),
    "rope-llama3": _with(_edit("config.json", rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64})),
    "many-eos": _with(_edit("generation_config.json", eos_token_id=[0, 2], temperature=0.6, top_p=0.9)),
    "template-in-config": _with(_edit("tokenizer_config.json", chat_template=bases.TEMPLATE)),
    "no-template": _with(lambda folder: (folder / "chat_template.jinja").unlink()),
}  # fmt: skip
