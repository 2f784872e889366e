from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.smoke import CYCLE_TOKENS, LONGEST_CYCLE, SmokeResult, cycle_length, smoke_test

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
        ({"architectures": ["BertModel"]}, "not a causal language model"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised weights"),
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
