"""The closed formulas agree with the models of transformers, and its loader decides the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.verification.derived import derive
from pipelines.verification.implied import FAMILIES, implied_tensors

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
