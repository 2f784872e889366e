"""The tensors that a config implies for families unlike Llama's: BERT's, GPT-2's, T5's, Whisper's.

Closed formulas after `modeling_*.py` of transformers, so that an honest repository of these
families needs no import of it. They describe what today's `save_pretrained` writes; files that
differ (names of long ago, heads that a class would drop) are not judged here but by transformers'
own loader (`derived.py`), so a formula may be narrow and must never be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipelines.verification.implied import MAX_COUNT, Implied, Shapes

Config = Mapping[str, Any]
Items = Iterator[tuple[str, tuple[int, ...]]]
_BERTS = {
    "bert": ("Bert", "bert"), "roberta": ("Roberta", "roberta"),
    "xlm-roberta": ("XLMRoberta", "roberta"), "camembert": ("Camembert", "roberta"),
}  # fmt: skip


class _Unsaid(Exception):
    """A config that does not give a size, or that asks for parts without a formula."""


def implied_otherwise(config: Config) -> Implied | None:
    """Shapes of all tensors and those that may be absent, or None where no formula fits."""
    kind, classes = str(config.get("model_type")), config.get("architectures")
    formula = _FORMULAS.get(kind)
    if formula is None or not isinstance(classes, list) or len(classes) != 1:
        return None
    if any(config.get(key) for key in ("is_decoder", "add_cross_attention", "pruned_heads")):
        return None
    try:
        required, optional = formula(config, str(classes[0]))
    except _Unsaid:
        return None
    return Implied({**required, **optional}, frozenset(optional))


def _count(config: Config, key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 40:
        raise _Unsaid(key)
    return value


def _layers(config: Config, key: str, default: int | None = None) -> range:
    count = _count(config, key, default)
    if count > MAX_COUNT:
        raise _Unsaid(key)
    return range(count)


def _labels(config: Config) -> int:
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) else _count(config, "num_labels", 2)


def _linear(name: str, rows: int, columns: int, bias: bool = True) -> Items:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _conv1d(name: str, inside: int, outside: int) -> Items:
    """GPT-2's linear layer, whose weight is transposed (pytorch_utils.Conv1D)."""
    yield f"{name}.weight", (inside, outside)
    yield f"{name}.bias", (outside,)


def _norm(name: str, width: int) -> Items:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _bert(config: Config, name: str) -> tuple[Shapes, Shapes]:
    prefix, attribute = _BERTS[str(config["model_type"])]
    head = name.removeprefix(prefix)
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise _Unsaid("position_embedding_type")
    at = "" if head == "Model" else f"{attribute}."
    width, inner = _count(config, "hidden_size"), _count(config, "intermediate_size")
    rows = _count(config, "vocab_size")
    shapes: Shapes = {
        f"{at}embeddings.word_embeddings.weight": (rows, width),
        f"{at}embeddings.position_embeddings.weight": (
            _count(config, "max_position_embeddings"),
            width,
        ),
        f"{at}embeddings.token_type_embeddings.weight": (
            _count(config, "type_vocab_size", 2),
            width,
        ),
        **dict(_norm(f"{at}embeddings.LayerNorm", width)),
    }
    for layer in _layers(config, "num_hidden_layers"):
        here = f"{at}encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes.update(_linear(f"{here}attention.{part}", width, width))
        shapes.update(_linear(f"{here}intermediate.dense", inner, width))
        shapes.update(_linear(f"{here}output.dense", width, inner))
        shapes.update(_norm(f"{here}attention.output.LayerNorm", width))
        shapes.update(_norm(f"{here}output.LayerNorm", width))
    pooler = dict(_linear(f"{at}pooler.dense", width, width))
    own, loose = _bert_head(config, attribute, head, rows, width)
    return {**shapes, **own}, {**pooler, **loose}


def _bert_head(
    config: Config, attribute: str, head: str, rows: int, width: int
) -> tuple[Shapes, Shapes]:
    """(required, optional) of what stands on the encoder."""
    labels = _labels(config)
    if head == "Model":
        return {}, {}
    if head == "ForTokenClassification":
        return dict(_linear("classifier", labels, width)), {}
    if head == "ForQuestionAnswering":
        return dict(_linear("qa_outputs", labels, width)), {}
    if head == "ForSequenceClassification":
        if attribute == "bert":
            return dict(_linear("classifier", labels, width)), {}
        dense = dict(_linear("classifier.dense", width, width))
        return {**dense, **dict(_linear("classifier.out_proj", labels, width))}, {}
    if head == "ForMaskedLM" and attribute == "roberta":
        own = {**dict(_linear("lm_head.dense", width, width)), "lm_head.bias": (rows,)}
        own.update(_norm("lm_head.layer_norm", width))
        return own, dict(_linear("lm_head.decoder", rows, width))
    if head in ("ForMaskedLM", "ForPreTraining") and attribute == "bert":
        own = dict(_linear("cls.predictions.transform.dense", width, width))
        own.update(_norm("cls.predictions.transform.LayerNorm", width))
        own["cls.predictions.bias"] = (rows,)
        loose = dict(_linear("cls.predictions.decoder", rows, width))
        following = dict(_linear("cls.seq_relationship", 2, width))
        if head == "ForPreTraining":
            return {**own, **following}, loose
        return own, loose
    raise _Unsaid(head)


def _distilbert(config: Config, name: str) -> tuple[Shapes, Shapes]:
    head = name.removeprefix("DistilBert")
    at = "" if head == "Model" else "distilbert."
    width, inner = _count(config, "dim"), _count(config, "hidden_dim")
    rows, labels = _count(config, "vocab_size"), _labels(config)
    positions = _count(config, "max_position_embeddings", 512)
    shapes: Shapes = {
        f"{at}embeddings.word_embeddings.weight": (rows, width),
        f"{at}embeddings.position_embeddings.weight": (positions, width),
        **dict(_norm(f"{at}embeddings.LayerNorm", width)),
    }
    for layer in _layers(config, "n_layers"):
        here = f"{at}transformer.layer.{layer}."
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            shapes.update(_linear(f"{here}attention.{part}", width, width))
        shapes.update(_linear(f"{here}ffn.lin1", inner, width))
        shapes.update(_linear(f"{here}ffn.lin2", width, inner))
        shapes.update(_norm(f"{here}sa_layer_norm", width))
        shapes.update(_norm(f"{here}output_layer_norm", width))
    if head == "ForMaskedLM":
        shapes.update(_linear("vocab_transform", width, width))
        shapes.update(_norm("vocab_layer_norm", width))
        shapes["vocab_projector.bias"] = (rows,)
        return shapes, {"vocab_projector.weight": (rows, width)}
    if head == "ForSequenceClassification":
        shapes.update(_linear("pre_classifier", width, width))
        shapes.update(_linear("classifier", labels, width))
    elif head == "ForTokenClassification":
        shapes.update(_linear("classifier", labels, width))
    elif head == "ForQuestionAnswering":
        shapes.update(_linear("qa_outputs", labels, width))
    elif head != "Model":
        raise _Unsaid(head)
    return shapes, {}


def _gpt2(config: Config, name: str) -> tuple[Shapes, Shapes]:
    if name not in ("GPT2LMHeadModel", "GPT2Model"):
        raise _Unsaid(name)
    at = "" if name == "GPT2Model" else "transformer."
    width, rows = _count(config, "n_embd"), _count(config, "vocab_size")
    inner = _count(config, "n_inner", 4 * width)
    shapes: Shapes = {
        f"{at}wte.weight": (rows, width),
        f"{at}wpe.weight": (_count(config, "n_positions"), width),
    }
    for layer in _layers(config, "n_layer"):
        here = f"{at}h.{layer}."
        shapes.update(_norm(f"{here}ln_1", width))
        shapes.update(_norm(f"{here}ln_2", width))
        shapes.update(_conv1d(f"{here}attn.c_attn", width, 3 * width))
        shapes.update(_conv1d(f"{here}attn.c_proj", width, width))
        shapes.update(_conv1d(f"{here}mlp.c_fc", width, inner))
        shapes.update(_conv1d(f"{here}mlp.c_proj", inner, width))
    shapes.update(_norm(f"{at}ln_f", width))
    head: Shapes = {"lm_head.weight": (rows, width)} if at else {}
    return ({**shapes, **head}, {}) if _untied(config) else (shapes, head)


def _untied(config: Config, default: bool = True) -> bool:
    return config.get("tie_word_embeddings", default) is False


def _gpt_neox(config: Config, name: str) -> tuple[Shapes, Shapes]:
    if name not in ("GPTNeoXForCausalLM", "GPTNeoXModel"):
        raise _Unsaid(name)
    at = "" if name == "GPTNeoXModel" else "gpt_neox."
    width, inner = _count(config, "hidden_size"), _count(config, "intermediate_size")
    rows, bias = _count(config, "vocab_size"), config.get("attention_bias", True) is True
    shapes: Shapes = {f"{at}embed_in.weight": (rows, width)}
    for layer in _layers(config, "num_hidden_layers"):
        here = f"{at}layers.{layer}."
        shapes.update(_norm(f"{here}input_layernorm", width))
        shapes.update(_norm(f"{here}post_attention_layernorm", width))
        shapes.update(_linear(f"{here}attention.query_key_value", 3 * width, width, bias))
        shapes.update(_linear(f"{here}attention.dense", width, width, bias))
        shapes.update(_linear(f"{here}mlp.dense_h_to_4h", inner, width))
        shapes.update(_linear(f"{here}mlp.dense_4h_to_h", width, inner))
    shapes.update(_norm(f"{at}final_layer_norm", width))
    head: Shapes = {"embed_out.weight": (rows, width)} if at else {}
    return ({**shapes, **head}, {}) if _untied(config, False) else (shapes, head)


def _t5(config: Config, name: str) -> tuple[Shapes, Shapes]:
    head = name.removeprefix("M").removeprefix("T5")
    if head not in ("ForConditionalGeneration", "EncoderModel", "Model"):
        raise _Unsaid(name)
    rows, width = _count(config, "vocab_size"), _count(config, "d_model")
    layers = _layers(config, "num_layers")
    shapes: Shapes = {"shared.weight": (rows, width)}
    shapes.update(_t5_stack(config, "encoder", layers, crossing=False))
    loose: Shapes = {"encoder.embed_tokens.weight": (rows, width)}
    if head != "EncoderModel":
        decoding = _layers(config, "num_decoder_layers", len(layers))
        shapes.update(_t5_stack(config, "decoder", decoding, crossing=True))
        loose["decoder.embed_tokens.weight"] = (rows, width)
    if head == "ForConditionalGeneration":
        loose["lm_head.weight"] = (rows, width)
    return shapes, loose


def _t5_stack(config: Config, stack: str, layers: range, *, crossing: bool) -> Items:
    width, inner = _count(config, "d_model"), _count(config, "d_ff")
    heads = _count(config, "num_heads")
    across = heads * _count(config, "d_kv")
    attentions = ["SelfAttention", "EncDecAttention"] if crossing else ["SelfAttention"]
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated-")
    for layer in layers:
        here = f"{stack}.block.{layer}.layer."
        for at, attention in enumerate(attentions):
            for part in ("q", "k", "v"):
                yield f"{here}{at}.{attention}.{part}.weight", (across, width)
            yield f"{here}{at}.{attention}.o.weight", (width, across)
            yield f"{here}{at}.layer_norm.weight", (width,)
        last = f"{here}{len(attentions)}."
        for part in ("wi_0", "wi_1") if gated else ("wi",):
            yield f"{last}DenseReluDense.{part}.weight", (inner, width)
        yield f"{last}DenseReluDense.wo.weight", (width, inner)
        yield f"{last}layer_norm.weight", (width,)
    buckets = _count(config, "relative_attention_num_buckets", 32)
    yield f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (buckets, heads)
    yield f"{stack}.final_layer_norm.weight", (width,)


def _whisper(config: Config, name: str) -> tuple[Shapes, Shapes]:
    if name not in ("WhisperForConditionalGeneration", "WhisperModel"):
        raise _Unsaid(name)
    at = "" if name == "WhisperModel" else "model."
    width, rows = _count(config, "d_model"), _count(config, "vocab_size")
    heard, said = _count(config, "max_source_positions"), _count(config, "max_target_positions")
    shapes: Shapes = {
        f"{at}encoder.conv1.weight": (width, _count(config, "num_mel_bins"), 3),
        f"{at}encoder.conv1.bias": (width,),
        f"{at}encoder.conv2.weight": (width, width, 3),
        f"{at}encoder.conv2.bias": (width,),
        f"{at}encoder.embed_positions.weight": (heard, width),
        f"{at}decoder.embed_positions.weight": (said, width),
        f"{at}decoder.embed_tokens.weight": (rows, width),
    }
    for stack in ("encoder", "decoder"):
        inner = _count(config, f"{stack}_ffn_dim")
        attentions = ("self_attn", "encoder_attn") if stack == "decoder" else ("self_attn",)
        for layer in _layers(config, f"{stack}_layers"):
            here = f"{at}{stack}.layers.{layer}."
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    bias = part != "k_proj"
                    shapes.update(_linear(f"{here}{attention}.{part}", width, width, bias))
                shapes.update(_norm(f"{here}{attention}_layer_norm", width))
            shapes.update(_linear(f"{here}fc1", inner, width))
            shapes.update(_linear(f"{here}fc2", width, inner))
            shapes.update(_norm(f"{here}final_layer_norm", width))
        shapes.update(_norm(f"{at}{stack}.layer_norm", width))
    return shapes, {"proj_out.weight": (rows, width)} if at else {}


_FORMULAS: Mapping[str, Callable[[Config, str], tuple[Shapes, Shapes]]] = {
    **dict.fromkeys(_BERTS, _bert), "distilbert": _distilbert, "gpt2": _gpt2,
    "gpt_neox": _gpt_neox, "t5": _t5, "mt5": _t5, "whisper": _whisper,
}  # fmt: skip
KINDS = tuple(_FORMULAS)
