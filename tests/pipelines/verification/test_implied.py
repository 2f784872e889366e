"""The closed formulas agree with the models of transformers, and its loader decides the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.verification.derived import derive
from pipelines.verification.implied import FAMILIES, implied_tensors
from pipelines.verification.implied_others import KINDS, implied_otherwise

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": None,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 3},
    "qwen2_moe": {"num_experts": 3, "moe_intermediate_size": 16, "num_experts_per_tok": 2,
                  "shared_expert_intermediate_size": 24, "mlp_only_layers": [1]},
    "qwen3_moe": {"num_experts": 3, "moe_intermediate_size": 16, "num_experts_per_tok": 2,
                  "decoder_sparse_step": 2},
}  # fmt: skip
CLASSES = {"gemma3_text": "Gemma3ForCausalLM"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"head_dim": 16}, {"attention_bias": True}])
def test_the_formulas_are_those_of_transformers(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    import transformers
    from safetensors import safe_open
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if family == "phi3":
        changes = {}  # its fused projections know neither
    config = CONFIG_MAPPING[family](**{**SIZES, **MORE.get(family, {}), **changes})
    name = CLASSES.get(family, f"{FAMILIES[family].prefix}ForCausalLM")
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        saved = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    implied = implied_tensors({**config.to_dict(), "architectures": [name]})

    assert implied is not None
    assert {n: s for n, s in implied.shapes.items() if n not in implied.optional} == {
        n: s for n, s in saved.items() if n not in implied.optional
    }


# Configs of the other families: what each class of `architectures` holds.
_BERT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 40}  # fmt: skip
_DISTIL = {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
_GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40,
         "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
_NEOX = {**_BERT, "bos_token_id": 1, "eos_token_id": 2}
_T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 4, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_WHISPER = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40, "num_mel_bins": 80, "max_source_positions": 50,
    "max_target_positions": 32, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip
_HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification",
          "ForQuestionAnswering")  # fmt: skip
OTHERS: list[tuple[str, str, dict[str, Any]]] = [
    *(("bert", f"Bert{head}", _BERT) for head in (*_HEADS, "ForPreTraining")),
    *(("roberta", f"Roberta{head}", {**_BERT, "num_labels": 3}) for head in _HEADS),
    *(("xlm-roberta", f"XLMRoberta{head}", {**_BERT, "type_vocab_size": 1}) for head in _HEADS[:3]),
    ("camembert", "CamembertForMaskedLM", _BERT),
    *(("distilbert", f"DistilBert{head}", _DISTIL) for head in _HEADS),
    ("gpt2", "GPT2LMHeadModel", _GPT2), ("gpt2", "GPT2Model", {**_GPT2, "n_inner": 48}),
    ("gpt2", "GPT2LMHeadModel", {**_GPT2, "tie_word_embeddings": False}),
    ("gpt_neox", "GPTNeoXForCausalLM", _NEOX), ("gpt_neox", "GPTNeoXModel", _NEOX),
    ("gpt_neox", "GPTNeoXForCausalLM", {**_NEOX, "attention_bias": False}),
    ("t5", "T5ForConditionalGeneration", _T5), ("t5", "T5EncoderModel", _T5),
    ("t5", "T5ForConditionalGeneration",
     {**_T5, "num_decoder_layers": 1, "feed_forward_proj": "gated-gelu"}),
    ("mt5", "MT5ForConditionalGeneration", _T5),
    ("whisper", "WhisperForConditionalGeneration", _WHISPER), ("whisper", "WhisperModel", _WHISPER),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "said"), OTHERS)
def test_the_other_formulas_are_those_of_transformers(
    family: str, name: str, said: dict[str, Any], tmp_path: Path
) -> None:
    import json

    import transformers
    from safetensors import safe_open
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](**said)
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        saved = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    implied = implied_otherwise(json.loads((tmp_path / "config.json").read_text()))

    assert implied is not None
    assert {n: s for n, s in implied.shapes.items() if n not in implied.optional} == {
        n: s for n, s in saved.items() if n not in implied.optional
    }
    assert all(implied.shapes[n] == s for n, s in saved.items())


def test_every_other_family_is_compared() -> None:
    assert {family for family, _, _ in OTHERS} == set(KINDS)


def test_a_config_without_sizes_implies_nothing() -> None:
    said = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    assert implied_tensors(said) is None
    assert implied_tensors({**said, **SIZES}) is not None
    assert implied_tensors({**said, **SIZES, "num_hidden_layers": 10**12}) is None
    assert implied_tensors({**said, **SIZES, "hidden_size": "32"}) is None


def test_the_loader_of_transformers_names_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("WEIGHBRIDGE_HOME", raising=False)
    config = {
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "vocab_size": 16,
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    }  # fmt: skip

    difference = derive(config, {"gpt_neox.embed_in.weight": (17, 8), "evil.weight": (2, 2)})

    assert difference.unknown == ""
    assert difference.unexpected == ("evil.weight",)
    assert [wrong.name for wrong in difference.misshapen] == ["gpt_neox.embed_in.weight"]
    assert "gpt_neox.layers.0.attention.dense.weight" in difference.missing
    kept = list((tmp_path / "weighbridge" / "derived").iterdir())
    assert len(kept) == 1
    kept[0].write_text("{")  # cut short: asked again
    assert (
        derive(config, {"gpt_neox.embed_in.weight": (17, 8), "evil.weight": (2, 2)}) == difference
    )


def test_what_transformers_does_not_know_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = {"model_type": "ours", "architectures": ["OursForCausalLM"]}
    assert "does not know" in derive(config, {"a": (1,)}).unknown
