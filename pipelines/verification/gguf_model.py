"""A GGUF file's keys against its tensors: architecture, blocks, widths, tokens.

Names are those of llama.cpp's converters (gguf-py, constants.TENSOR_NAMES; a test compares).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import listed, quoted, refusal, words
from pipelines.verification.gguf_header import GgufHeader, GgufTensor

Found = Iterator[tuple[str, str]]  # rule, fact

_REMEDY = "Fetch the file again, or convert the original weights yourself."
BLOCK_NAMES = words(
    "altup_correct_coef altup_correct_scale altup_predict_coef altup_router altup_router_norm "
    "attn_gate attn_k attn_k_b attn_k_norm attn_kv_a_mqa attn_kv_a_norm attn_kv_b attn_norm "
    "attn_norm_2 attn_output attn_output_norm attn_q attn_q_a attn_q_a_norm attn_q_b "
    "attn_q_norm attn_qkv attn_rot_embd attn_sinks attn_sub_norm attn_v attn_v_b "
    "channel_mix_key channel_mix_lerp_k channel_mix_lerp_r channel_mix_receptance "
    "channel_mix_value exp_probs_b ffn ffn_down ffn_down_chexps ffn_down_exps ffn_down_shexp "
    "ffn_gate ffn_gate_chexps ffn_gate_exps ffn_gate_inp ffn_gate_inp_shexp ffn_gate_shexp "
    "ffn_gate_up_exps ffn_latent_down ffn_latent_up ffn_norm ffn_norm_exps ffn_sub_norm "
    "ffn_up ffn_up_chexps ffn_up_exps ffn_up_shexp indexer.attn_k indexer.attn_q_b "
    "indexer.k_norm indexer.proj inp_gate laurel_l laurel_post_norm laurel_r "
    "layer_output_norm layer_output_scale nextn.eh_proj nextn.embed_tokens nextn.enorm "
    "nextn.hnorm nextn.shared_head_head nextn.shared_head_norm post_attention_norm "
    "post_ffw_norm post_ffw_norm_1 post_ffw_norm_2 post_norm pre_ffw_norm_2 proj "
    "shortconv.conv shortconv.in_proj shortconv.out_proj ssm_a ssm_alpha ssm_b_norm ssm_ba "
    "ssm_beta ssm_c_norm ssm_conv1d ssm_conv1d_k ssm_conv1d_q ssm_conv1d_v ssm_d ssm_dt "
    "ssm_dt_norm ssm_f_a ssm_f_b ssm_g_a ssm_g_b ssm_in ssm_norm ssm_out ssm_x time_mix_a0 "
    "time_mix_a1 time_mix_a2 time_mix_decay time_mix_decay_w1 time_mix_decay_w2 "
    "time_mix_first time_mix_g1 time_mix_g2 time_mix_gate time_mix_k_a time_mix_k_k "
    "time_mix_key time_mix_lerp_fused time_mix_lerp_g time_mix_lerp_k time_mix_lerp_r "
    "time_mix_lerp_v time_mix_lerp_w time_mix_lerp_x time_mix_ln time_mix_output time_mix_r_k "
    "time_mix_receptance time_mix_v0 time_mix_v1 time_mix_v2 time_mix_value time_mix_w0 "
    "time_mix_w1 time_mix_w2 vis_attn_output vis_attn_qkv vis_down vis_gate vis_up "
)
GLOBAL_NAMES = words(
    "token_embd token_embd_norm token_types position_embd output output_norm rope_freqs "
    "rope_factors_long rope_factors_short cls cls.output cls.norm"
)
# Decoders whose blocks all have the same tensors.
_REGULAR = words(
    "llama mistral3 qwen2 qwen3 gemma gemma2 gemma3 phi3 starcoder2 granite olmo2 smollm3 stablelm "
    "command-r falcon gpt2 gptneox internlm2 exaone glm4 baichuan xverse orion"
)
_GATED = words("llama mistral3 qwen2 qwen3 gemma gemma2 gemma3 granite smollm3")
_ESSENTIAL = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
_SUFFIX = re.compile(r"\.(weight|bias|scale)$")
_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_-]*")
_FETCHED = re.compile(r"\s*(file|ftp|s3)://", re.IGNORECASE)
MAX_BLOCKS = 100_000
_LENGTHS = ("tokenizer.ggml.token_type", "tokenizer.ggml.scores")
_IDS = ("bos", "eos", "unknown", "padding", "eot", "eom", "separator", "mask", "cls")
TOKENS = "tokenizer.ggml.tokens"


def check(contents: Contents) -> Iterator[Finding]:
    """Every GGUF file."""
    for name, header in contents.ggufs.items():
        for rule, fact in judge_gguf(header):
            yield refusal(rule, name, fact, _REMEDY)


def judge_gguf(header: GgufHeader) -> Found:
    """(rule, fact) for everything in which keys and tensors contradict each other."""
    architecture = header.keys.get("general.architecture")
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        yield "gguf.architecture", f"general.architecture is {quoted(architecture)}"
        return
    for key, value in header.keys.items():
        if isinstance(value, str) and _FETCHED.match(value):
            yield "hook.fetch", f"{quoted(key)} is the address {quoted(value)}"
    prefixes = {key.split(".")[0] for key in header.keys if not _is_general(key)}
    if prefixes and architecture not in prefixes and header.tensors:
        fact = f"it is {quoted(architecture)}, and its settings are for {listed(sorted(prefixes))}"
        yield "gguf.architecture", fact
        return
    yield from _judge_tokens(header)
    if header.keys.get("split.count", 0) not in (0, 1) or not header.tensors:
        return  # a part of a model, or its vocabulary alone
    yield from _judge_blocks(header, architecture)
    yield from _judge_widths(header, architecture)


def _is_general(key: str) -> bool:
    return key.split(".")[0] in (
        "general",
        "tokenizer",
        "quantize",
        "split",
        "adapter",
        "clip",
    ) or ("." not in key)


def _number(header: GgufHeader, key: str) -> int | None:
    value = header.keys.get(key)
    return value if type(value) is int else None


def _judge_tokens(header: GgufHeader) -> Found:
    count = header.array_lengths.get(TOKENS)
    if count is None:
        return
    for key in _LENGTHS:
        length = header.array_lengths.get(key, count)
        if length != count:
            yield "gguf.tokens", f"it has {count} tokens and {length} entries in {key}"
    for kind in _IDS:
        number = _number(header, f"tokenizer.ggml.{kind}_token_id")
        if number is not None and not 0 <= number < count and number != 2**32 - 1:
            yield "gguf.token-id", f"the {kind} token is {number}, of {count} tokens"
    if header.duplicate_token is not None:
        fact = f"two tokens are {quoted(header.duplicate_token)}"
        yield "tokenizer.alias", fact


def _judge_blocks(header: GgufHeader, architecture: str) -> Found:
    count = _number(header, f"{architecture}.block_count")
    if count is None and f"{architecture}.block_count" not in header.keys:
        return  # no engine loads it; there is nothing to compare with
    if count is None or not 0 < count <= MAX_BLOCKS:
        yield "gguf.blocks", f"{architecture}.block_count is {quoted(count)}"
        return
    blocks: dict[int, set[str]] = {}
    strange = []
    for tensor in header.tensors:
        match = _BLOCK.fullmatch(tensor.name)
        stem = _SUFFIX.sub("", match[2] if match else tensor.name)
        if match:
            blocks.setdefault(int(match[1]), set()).add(stem)
        if stem not in (BLOCK_NAMES if match else GLOBAL_NAMES):
            strange.append(tensor.name)
    if strange and architecture in _REGULAR:
        yield "gguf.extra-tensors", f"{listed(strange)} are no part of {architecture}"
    beyond = sorted(number for number in blocks if number >= count)
    absent = [number for number in range(min(count, len(blocks) + 8)) if number not in blocks]
    if beyond or absent:
        fact = f"it counts {count} blocks, and has tensors for {len(blocks)} of other numbers"
        yield "gguf.blocks", fact
    if architecture not in _REGULAR or not blocks:
        return
    every = set[str]().union(*blocks.values())
    experts = any(name.endswith("_exps") for name in every)
    ffn = {"ffn_norm", "ffn_gate", "ffn_up", "ffn_down"}
    fused = "attn_qkv" in every
    if architecture in _GATED:
        every |= set(_ESSENTIAL[:1] if fused else _ESSENTIAL) | (set() if experts else ffn)
    for number, names in sorted(blocks.items()):
        if lacking := sorted(every - names):
            yield "gguf.missing-tensors", f"block {number} has no {listed(lacking)}"
            break
    there = {_SUFFIX.sub("", tensor.name) for tensor in header.tensors}
    if lacking := [n for n in ("token_embd", "output_norm") if n not in there]:
        yield "gguf.missing-tensors", f"it has no {listed(lacking)}"


def _judge_widths(header: GgufHeader, architecture: str) -> Found:
    """Shapes (fastest dimension first) against the widths that the keys give."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    embedding = tensors.get("token_embd.weight")
    width = _number(header, f"{architecture}.embedding_length")
    heads = _number(header, f"{architecture}.attention.head_count")
    keys = _number(header, f"{architecture}.attention.head_count_kv")
    inner = _number(header, f"{architecture}.feed_forward_length")
    if embedding is not None:
        rows = embedding.shape[1] if len(embedding.shape) == 2 else None
        stated = _number(header, f"{architecture}.vocab_size")
        tokens = header.array_lengths.get(TOKENS)
        if width is not None and embedding.shape[0] != width:
            yield "gguf.shape", f"embedding_length is {width}, vectors have {embedding.shape[0]}"
        if rows is None or (stated is not None and stated != rows):
            yield "gguf.shape", f"vocab_size is {stated}, token_embd has {list(embedding.shape)}"
        if rows is not None and tokens is not None and tokens > rows:
            yield "tokenizer.beyond-embeddings", f"it has {tokens} tokens and {rows} embeddings"
    if architecture not in _REGULAR or not (width and heads):
        if heads == 0 and architecture in _REGULAR:
            yield "gguf.shape", "it has no attention heads"
        return
    head = _number(header, f"{architecture}.attention.key_length") or width // heads
    wanted: dict[str, tuple[int, ...]] = {
        "attn_q": (width, heads * head),
        "attn_output": (heads * head, width),
    }
    if keys:
        wanted |= {"attn_k": (width, keys * head)}
    if inner and architecture in _GATED:
        wanted |= {"ffn_up": (width, inner), "ffn_gate": (width, inner)}
        wanted |= {"ffn_down": (inner, width)}
    for name in ("attn_norm", "ffn_norm"):
        wanted[name] = (width,)
    yield from _judge_shapes(header.tensors, wanted)
    rotated = _number(header, f"{architecture}.rope.dimension_count")
    if rotated is not None and rotated > head:
        yield "gguf.shape", f"it rotates {rotated} dimensions of heads of {head}"


def _judge_shapes(tensors: tuple[GgufTensor, ...], wanted: dict[str, tuple[int, ...]]) -> Found:
    for tensor in tensors:
        match = _BLOCK.fullmatch(tensor.name)
        shape = wanted.get(match[2].removesuffix(".weight")) if match else None
        if shape is not None and tensor.shape != shape:
            fact = f"{quoted(tensor.name)} has the shape {list(tensor.shape)}, "
            yield "gguf.shape", f"{fact}the keys imply {list(shape)}"
            return
