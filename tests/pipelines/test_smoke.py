from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.gguf_facts import GgufFacts, read_facts, says_bos
from pipelines.smoke import SmokeResult
from pipelines.smoke.kinds import kind_of
from pipelines.smoke.plan import plan
from pipelines.smoke.run import smoke_test
from pipelines.smoke.text import CYCLE_TOKENS, LONGEST_CYCLE, cycle_length
from pipelines.verification.gguf_header import Scalar

LIMIT_BYTES = 1024**3


@pytest.fixture
def weights(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "weights"))


def smoke(weights: Path, adds_bos: bool | None = None) -> SmokeResult:
    return smoke_test(weights, adds_bos=adds_bos, limit_bytes=LIMIT_BYTES)


def change_tensors(weights: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.torch import load_file, save_file

    path = weights / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_sound_model_passes_and_says_the_same_twice(weights: Path) -> None:
    first, second = smoke(weights), smoke(weights)

    assert first.outcome == "passed"
    assert len(first.answers) == 3
    assert first == second


def test_logits_that_are_not_finite_fail(weights: Path) -> None:
    def poison(tensors: dict[str, Any]) -> None:
        tensors["model.norm.weight"][0] = float("nan")

    change_tensors(weights, poison)

    assert any("not finite" in problem for problem in smoke(weights).problems)


def test_answers_that_repeat_without_end_fail(weights: Path) -> None:
    def flatten(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"].zero_()

    change_tensors(weights, flatten)

    assert any("repeat themselves without end" in p for p in smoke(weights).problems)


def test_a_missing_tensor_fails_and_is_named(weights: Path) -> None:
    change_tensors(weights, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))

    assert smoke(weights).problems[0] == (
        "1 tensors are missing, model.layers.1.mlp.up_proj.weight for one"
    )


def test_a_tokenizer_that_lost_bos_fails(weights: Path) -> None:
    problems = smoke(weights, adds_bos=True).problems

    assert problems == ("text must start with BOS (token 257), and the tokenizer does not add it",)


def test_the_tokenizers_own_word_on_bos_counts_too(weights: Path) -> None:
    change_json(weights / "tokenizer_config.json", add_bos_token=True)

    assert "must start with BOS" in smoke(weights).problems[0]


def test_an_end_token_that_the_config_does_not_know_fails(weights: Path) -> None:
    change_json(weights / "config.json", eos_token_id=7)
    change_json(weights / "generation_config.json", eos_token_id=7)

    assert smoke(weights).problems == ("the tokenizer ends with token 258, the config with [7]",)


def test_weights_cut_short_do_not_load(weights: Path) -> None:
    path = weights / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])

    assert smoke(weights).problems[0].startswith("does not load: ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["ViTForImageClassification"]}, "a model for image classification"),
        ({"architectures": ["TheirOwnForCausalLM"]}, "transformers has no class TheirOwn"),
        ({"architectures": ["Wav2Vec2ForCTC"]}, "a model for ctc, which has no test here"),
        ({"architectures": ["CLIPModel"]}, "CLIPModel takes no plain text"),
        ({"architectures": None}, "names no architecture"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised weights (awq)"),
    ],
)
def test_what_cannot_run_here_is_recorded_as_not_run(
    weights: Path, changes: dict[str, object], reason: str
) -> None:
    change_json(weights / "config.json", **changes)

    result = smoke(weights)

    assert result.outcome == "not run"
    assert reason in result.reason


def test_a_model_over_the_limit_is_recorded_as_not_run(weights: Path) -> None:
    result = smoke_test(weights, adds_bos=None, limit_bytes=1000)

    assert result.outcome == "not run"
    assert "more than the limit of 1000" in result.reason


def test_a_configuration_that_does_not_parse_fails(weights: Path) -> None:
    (weights / "config.json").write_text("{")

    assert smoke(weights).problems == ("config.json is no JSON object",)


def test_an_architecture_that_is_not_what_loads_fails(weights: Path) -> None:
    change_json(weights / "config.json", architectures=["MistralForCausalLM"])

    assert smoke(weights).problems == (
        "config.json names MistralForCausalLM, and its model_type loads LlamaForCausalLM",
    )


@pytest.mark.parametrize(
    ("architecture", "kind", "auto_class"),
    [
        ("Qwen3ForCausalLM", "causal", "AutoModelForCausalLM"),
        ("Gemma3ForCausalLM", "causal", "AutoModelForCausalLM"),
        ("Gemma3ForConditionalGeneration", "vision-language", "AutoModelForImageTextToText"),
        ("Qwen2VLForConditionalGeneration", "vision-language", "AutoModelForImageTextToText"),
        ("WhisperForConditionalGeneration", "speech-to-text", "AutoModelForSpeechSeq2Seq"),
        ("MarianMTModel", "sequence-to-sequence", "AutoModelForSeq2SeqLM"),
        ("BertForMaskedLM", "masked", "AutoModelForMaskedLM"),
        ("T5EncoderModel", "embeddings", "AutoModelForTextEncoding"),
        ("MistralModel", "embeddings", "AutoModel"),
    ],
)
def test_the_kind_is_told_from_transformers_own_tables(
    weights: Path, architecture: str, kind: str, auto_class: str
) -> None:
    decision = kind_of({"architectures": [architecture]}, weights)

    assert (decision.kind, decision.auto_class) == (kind, auto_class)


def test_a_model_trained_to_embed_is_not_asked_to_continue(weights: Path) -> None:
    (weights / "modules.json").write_text("[]")

    result = smoke(weights)

    assert (result.outcome, result.tested, result.answers) == ("passed", "embeddings", ())


def test_planning_and_ingest_load_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, pipelines.ingest, pipelines.smoke.plan\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ran.stdout == "[]\n"


def facts_of(gguf: Path, **changes: object) -> GgufFacts:
    return read_facts(gguf).model_copy(update=changes)


def test_of_several_gguf_files_the_smallest_model_is_tried(tiny_gguf: Path, tmp_path: Path) -> None:
    facts = {
        "large.gguf": facts_of(tiny_gguf, size_bytes=2_000_000),
        "small.gguf": facts_of(tiny_gguf, adds_bos=True),
        "mmproj.gguf": facts_of(tiny_gguf, size_bytes=1, tokenizer_model=""),
    }

    planned = plan(tmp_path, facts, LIMIT_BYTES)

    assert (planned.gguf, planned.adds_bos, planned.reason) == ("small.gguf", True, "")


@pytest.mark.parametrize(
    ("changes", "limit_bytes", "reason"),
    [
        ({}, 1000, "bytes when they are expanded"),
        ({"split_count": 2}, LIMIT_BYTES, "split over several files"),
        ({"tokenizer_model": ""}, LIMIT_BYTES, "no GGUF file has a tokenizer"),
    ],
)
def test_a_gguf_file_that_cannot_be_tried_is_not_loaded(
    tiny_gguf: Path, tmp_path: Path, changes: dict[str, object], limit_bytes: int, reason: str
) -> None:
    facts = {"a.gguf": facts_of(tiny_gguf, **changes)}

    assert reason in plan(tmp_path, facts, limit_bytes).reason


def test_a_gguf_file_is_tried_expanded_in_memory_and_nothing_is_written(tiny_gguf: Path) -> None:
    before = {path.name for path in tiny_gguf.parent.iterdir()}

    result = smoke_test(
        tiny_gguf.parent, adds_bos=False, limit_bytes=LIMIT_BYTES, gguf=tiny_gguf.name
    )

    assert (result.outcome, result.tested, len(result.answers)) == ("passed", "causal", 3)
    assert "kept as it is" in result.observations[0]
    assert {path.name for path in tiny_gguf.parent.iterdir()} == before


def test_a_gguf_file_that_transformers_does_not_read_is_not_run(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    other = tiny_gguf.read_bytes().replace(
        b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0xlama", 1
    )
    (tmp_path / "other.gguf").write_bytes(other)

    result = smoke_test(tmp_path, adds_bos=None, limit_bytes=LIMIT_BYTES, gguf="other.gguf")

    assert result.outcome == "not run"
    assert "transformers does not read other.gguf" in result.reason


@pytest.mark.parametrize(
    ("keys", "adds_bos"),
    [
        ({"tokenizer.ggml.model": "llama"}, True),
        ({"tokenizer.ggml.model": "gpt2"}, False),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"}, True),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": False}, False),
        ({}, None),
    ],
)
def test_where_a_gguf_file_is_silent_about_bos_llama_cpps_default_holds(
    keys: dict[str, Scalar], adds_bos: bool | None
) -> None:
    assert says_bos(keys) is adds_bos


def test_code_of_the_model_is_never_run(weights: Path, tmp_path: Path) -> None:
    change_json(weights / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (weights / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

    smoke(weights)

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("period", range(1, LONGEST_CYCLE + 1))
def test_a_short_cycle_is_seen_wherever_it_starts(period: int) -> None:
    cycle = list(range(period)) * CYCLE_TOKENS

    assert cycle_length([90, 91, 92, *cycle[:CYCLE_TOKENS], 93, 94]) == period
    assert cycle_length([90, 91, 92, *cycle[: CYCLE_TOKENS - 1], 93, 94]) == 0


def test_different_tokens_are_no_cycle() -> None:
    assert cycle_length(list(range(100))) == 0
    assert cycle_length([]) == 0
