"""Tiny real models with random weights: small enough to make in a test, whole enough to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = 259  # 256 bytes, 'he', <s> and <|endoftext|>
BOS, EOS = 257, 258


def byte_tokens() -> list[str]:
    """The vocabulary of a byte-level BPE with one merge, then <s> and <|endoftext|>."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*sorted(ByteLevel.alphabet()), "he", "<s>", "<|endoftext|>"]


def make_tiny_llama(folder: Path, seed: int = 1) -> Any:
    """Save a Llama of two layers and a byte tokenizer as safetensors; returns the model.

    The weights are drawn wide (standard deviation 1): narrow ones make a model that repeats one
    token, which the smoke test rightly refuses.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=1.0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model


def byte_tokenizer(**tokens: Any) -> Any:
    """The tokenizer of `byte_tokens`; `tokens` are more special tokens, added at the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(byte_tokens())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|endoftext|>", **tokens
    )


def write_tiny_gguf(path: Path, model: Any, *, adds_bos: bool = False) -> None:
    """Write the model as GGUF: its embedding in blocks of Q8_0, the rest in F32.

    With `adds_bos` the file says that text must start with BOS, and the tokenizer that
    transformers makes of it does not add one: the fault of a real Gemma file.
    """
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny Llama")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)  # a wrong label, as they exist
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(byte_tokens())
    writer.add_token_types([1] * 257 + [3, 3])  # 3: control
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(adds_bos)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    for name, tensor in model.state_dict().items():
        data = tensor.float().numpy()
        if name == "model.embed_tokens.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            blocks = gguf.quantize(data, kind)
            writer.add_tensor("token_embd.weight", blocks, raw_dtype=kind)
        else:
            writer.add_tensor(_gguf_name(name), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    name = {"model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}.get(
        name, name
    )
    name = name.replace("model.layers.", "blk.")
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name
