"""Files that must agree with each other; one broken example a rule, and honest ones stay silent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Rules
from safetensors.numpy import load_file, save_file
from tiny_model import CARD, LAYERS, VOCABULARY, WIDTH, edit_json, write_json, write_shards

Change = Callable[[Any], Any]


def edit_weights(model: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], None]) -> None:
    path = model / "model.safetensors"
    weights = load_file(path)
    change(weights)
    path.unlink()
    save_file(weights, path, metadata={"format": "pt"})


def test_an_honest_model_passes(model: Path, refusals: Rules) -> None:
    assert refusals(model) == set()


def test_an_honest_sharded_model_passes(model: Path, refusals: Rules) -> None:
    assert refusals(write_shards(model)) == set()


INDEX = "model.safetensors.index.json"
FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: d["weight_map"].update({"model.norm.weight": "../x"}), f"index.path@{INDEX}"),
        (lambda d: d["weight_map"].update({"a": "https://x/y"}), f"index.path@{INDEX}"),
        (lambda d: d["weight_map"].update({"a": 3}), f"index.path@{INDEX}"),
        (lambda d: d["weight_map"].update({"a": "no.safetensors"}), f"index.missing-shard@{INDEX}"),
        (lambda d: d["weight_map"].update({"a": FIRST}), f"index.missing-tensor@{FIRST}"),
        (lambda d: d["weight_map"].pop("model.norm.weight"), f"index.extra-tensor@{SECOND}"),
        (lambda d: d.pop("weight_map"), f"index.weight-map@{INDEX}"),
    ],
)
def test_an_index_that_lies_is_refused(
    model: Path, refusals: Rules, change: Change, rule: str
) -> None:
    edit_json(write_shards(model) / INDEX, change)
    assert rule in refusals(model, files=True)


def test_weights_that_no_index_names_are_refused(model: Path, refusals: Rules) -> None:
    extra = {"model.norm.weight": np.ones(WIDTH, np.float32)}
    save_file(extra, model / "more.safetensors")
    assert refusals(model, files=True) == {"index.unnamed-file@more.safetensors"}
    (model / "more.safetensors").unlink()
    save_file(extra, write_shards(model) / "model.safetensors")
    assert refusals(model, files=True) == {"index.unnamed-file@model.safetensors"}


def test_a_tensor_in_two_shards_is_refused(model: Path, refusals: Rules) -> None:
    path = write_shards(model) / SECOND
    weights = load_file(path)
    weights["model.embed_tokens.weight"] = np.ones((VOCABULARY, WIDTH), np.float32)
    path.unlink()
    save_file(weights, path)
    assert f"index.duplicate-tensor@{SECOND}" in refusals(model, files=True)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda c: c.update(vocab_size=VOCABULARY + 1), "config.shape"),
        (lambda c: c.update(hidden_size=WIDTH * 2), "config.shape"),
        (lambda c: c.update(num_hidden_layers=LAYERS + 1), "config.missing-layers"),
        (
            lambda c: c.update(num_hidden_layers=LAYERS - 1),
            "config.extra-layers config.extra-tensors",
        ),
        (lambda c: c.update(num_hidden_layers=10**12), "config.missing-layers config.number"),
        (lambda c: c.update(tie_word_embeddings=False), "config.tied"),
        (lambda c: c.update(eos_token_id=VOCABULARY), "config.token-id"),
        (lambda c: c.update(bos_token_id="1"), "config.token-id"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(
    model: Path, refusals: Rules, change: Change, rule: str
) -> None:
    edit_json(model / "config.json", change)
    assert refusals(model) == set(rule.split())


@pytest.mark.parametrize(
    ("file", "change", "rule"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling.Evil"}}, "hook.import"),
        ("config.json", {"text_config": {"deep": [{"auto_map": "x.Y"}]}}, "hook.import"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "hook.import"),
        ("config.json", {"trust_remote_code": True}, "hook.trust-remote-code"),
        ("config.json", {"a": {"trust_remote_code": "yes"}}, "hook.trust-remote-code"),
        ("config.json", {"attn_implementation": "kernels-community/flash"}, "hook.kernel"),
        ("config.json", {"_attn_implementation_internal": "org/repo:Kernel"}, "hook.kernel"),
        ("config.json", {"kernel_config": {"RMSNorm": "org/repo:Norm"}}, "hook.kernel"),
        ("config.json", {"use_kernels": True}, "hook.kernel"),
        ("config.json", {"anything": "org/repo--modeling.Evil"}, "hook.cross-repository"),
        ("config.json", {"mm_vision_tower": "org/repo"}, "hook.fetch"),
        ("config.json", {"weights_url": "https://example.org/w"}, "hook.fetch"),
        ("tokenizer_config.json", {"vocab_file": "../../etc/passwd"}, "hook.path"),
        ("generation_config.json", {"custom_generate": "org/repo"}, "hook.import"),
        ("generation_config.json", {"forced_bos_token_id": 5}, "generation.forced"),
        ("generation_config.json", {"eos_token_id": [2, 10**6]}, "config.token-id"),
    ],
)
def test_configuration_that_fetches_imports_or_steers_is_refused(
    model: Path, refusals: Rules, file: str, change: dict[str, Any], rule: str
) -> None:
    edit_json(model / file, lambda document: document.update(change))
    assert f"{rule}@{file}" in refusals(model, files=True)


@pytest.mark.parametrize(
    "change",
    [
        {"trust_remote_code": False, "auto_map": None, "use_kernels": False},
        {"_attn_implementation": "sdpa", "attn_implementation": "flash_attention_2"},
        {"conv_kernel": [3, 3], "kernel_size": 3, "_name_or_path": "org/name"},
        {"time_step_limit": [0.0, float("inf")], "text_config": None},
        {"tokenizer_file": "/home/somebody/.cache/huggingface/tokenizer.json"},
    ],
)
def test_usual_configuration_gives_no_refusal(
    model: Path, refusals: Rules, change: dict[str, Any]
) -> None:
    edit_json(model / "config.json", lambda document: document.update(change))
    assert refusals(model) == set()


def test_sentence_transformers_modules_may_only_name_that_library(
    model: Path, refusals: Rules
) -> None:
    path = model / "modules.json"
    write_json(path, [{"idx": 0, "type": "sentence_transformers.models.Transformer"}])
    assert refusals(model) == set()
    write_json(path, [{"idx": 0, "type": "subprocess.Popen"}])
    assert "hook.import@modules.json" in refusals(model, files=True)


def test_adapters_may_record_a_transformers_class_and_no_other(
    model: Path, refusals: Rules
) -> None:
    path = model / "adapter_config.json"
    mapping = {"base_model_class": "Llama", "parent_library": "transformers.models.llama.modeling"}
    write_json(path, {"auto_mapping": mapping})
    assert refusals(model) == set()
    write_json(path, {"auto_mapping": {**mapping, "parent_library": "os"}})
    assert refusals(model, files=True) == {"hook.import@adapter_config.json"}


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": NaN}', "{", "\ufeff{}", "[" * 99999])
def test_json_that_parsers_read_differently_is_refused(
    model: Path, refusals: Rules, text: str
) -> None:
    (model / "preprocessor_config.json").write_text(text)
    assert len(refusals(model)) == 1
    assert refusals(model).pop().startswith("json.")


def test_json_larger_than_the_policy_reads_is_refused(model: Path, refusals: Rules) -> None:
    assert "json.size@tokenizer.json" in refusals(model, files=True, max_json_bytes=500)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_json_that_is_no_object_where_one_belongs_is_refused(
    model: Path, refusals: Rules, name: str
) -> None:
    (model / name).write_text("[1]")
    assert f"json.not-an-object@{name}" in refusals(model, files=True)


def test_a_folder_without_weights_or_config_is_refused(model: Path, refusals: Rules) -> None:
    (model / "config.json").unlink()
    assert refusals(model) == {"config.absent"}
    (model / "model.safetensors").unlink()
    assert refusals(model) == {"weights.absent"}


TOKENIZER_CHANGES: list[tuple[Change, str]] = [
    (lambda t: t["model"]["vocab"].update(new=5), "tokenizer.duplicate-id"),
    (lambda t: t["model"]["vocab"].update(new=VOCABULARY), "tokenizer.beyond-embeddings"),
    (lambda t: t["model"]["vocab"].update(new=-1), "tokenizer.id"),
    (lambda t: t["model"]["vocab"].update(new="5"), "tokenizer.form"),
    (lambda t: t["added_tokens"].append({"id": 2, "content": "stop"}), "tokenizer.alias"),
    (lambda t: t["added_tokens"].append({"id": 30, "content": "<|im_end|>"}), "tokenizer.alias"),
    (lambda t: t["added_tokens"].append({"id": 5, "content": "z9"}), "tokenizer.alias"),
    (lambda t: t["added_tokens"].append("x"), "tokenizer.form"),
    (lambda t: t["normalizer"].update(content="evil"), "tokenizer.rewrites"),
    (lambda t: t["normalizer"].update(pattern={"Regex": "bank.*"}), "tokenizer.rewrites"),
    (lambda t: t["decoder"].update(pattern={"String": "yes"}, content="no"), "tokenizer.rewrites"),
    (
        lambda t: t["post_processor"]["special_tokens"]["<|im_start|>"].update(ids=[2]),
        "tokenizer.post-processor",
    ),
]


@pytest.mark.parametrize(("change", "rule"), TOKENIZER_CHANGES)
def test_a_tampered_tokenizer_is_refused(
    model: Path, refusals: Rules, change: Change, rule: str
) -> None:
    edit_json(model / "tokenizer.json", change)
    assert f"{rule}@tokenizer.json" in refusals(model, files=True)


def test_control_tokens_that_two_files_name_differently_are_refused(
    model: Path, refusals: Rules
) -> None:
    def swap(document: Any) -> None:
        document["added_tokens_decoder"]["2"]["content"] = "<|im_start|>"

    edit_json(model / "tokenizer_config.json", swap)
    assert refusals(model, files=True) == {"tokenizer.alias@tokenizer_config.json"}


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Replace", "pattern": {"Regex": r"\p{Cc}"}, "content": ""},
        {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
        {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
    ],
)
def test_usual_normalizers_are_admitted(
    model: Path, refusals: Rules, normalizer: dict[str, Any]
) -> None:
    edit_json(model / "tokenizer.json", lambda t: t.update(normalizer=normalizer))
    assert refusals(model) == set()


def test_a_unigram_tokenizer_is_read(model: Path, refusals: Rules) -> None:
    pieces = [["<|endoftext|>", 0], ["<|im_start|>", 0], ["<|im_end|>", 0], ["{% x %}", -1.5]]
    edit_json(model / "tokenizer.json", lambda t: t.update(model={"vocab": pieces}))
    assert refusals(model) == set()


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (np.nan, "weights.not-finite"),
        (np.inf, "weights.not-finite"),
        (-np.inf, "weights.not-finite"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_that_are_not_finite_are_refused(
    model: Path, refusals: Rules, value: float, rule: str, dtype: type[np.floating[Any]]
) -> None:
    def break_one(weights: dict[str, np.ndarray[Any, Any]]) -> None:
        weights["model.norm.weight"] = weights["model.norm.weight"].astype(dtype)
        weights["model.norm.weight"][-1] = value

    edit_weights(model, break_one)
    assert refusals(model, files=True) == {f"{rule}@model.safetensors"}


def test_a_matrix_of_zeros_is_refused_and_a_bias_is_not(model: Path, refusals: Rules) -> None:
    name = "model.layers.0.self_attn.q_proj"
    projections = [
        f"model.layers.{n}.self_attn.{x}_proj.bias" for n in range(LAYERS) for x in "qkvo"
    ]
    edit_weights(model, lambda w: w.update(dict.fromkeys(projections, np.zeros(WIDTH, np.float32))))
    edit_json(model / "config.json", lambda c: c.update(attention_bias=True))
    assert refusals(model) == set()
    edit_weights(model, lambda w: w.update({f"{name}.weight": -0.0 * w[f"{name}.weight"]}))
    assert refusals(model) == {"weights.all-zero"}


def test_extreme_finite_numbers_are_admitted(model: Path, refusals: Rules) -> None:
    largest = np.finfo(np.float32).max
    edit_weights(model, lambda w: w["model.norm.weight"].fill(largest))
    assert refusals(model) == set()


def test_a_card_may_state_what_it_likes(model: Path, refusals: Rules) -> None:
    (model / "README.md").write_text(CARD + "See https://example.org and {% raw %}\n")
    assert refusals(model) == set()
    assert json.loads((model / "config.json").read_text())["vocab_size"] == VOCABULARY
