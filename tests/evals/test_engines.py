"""Answers that are scored together get the numbers that lm-eval gives them one by one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from evals.engines import EngineConfig, RequestTooLong, load_engine, scoring_environment
from evals.packed import PROMPT, can_pack, pack

CONTINUATIONS = ("A", "B", " and then some", " end", " and then none")


def config_for(weights: Path, dtype: str = "float32") -> EngineConfig:
    return EngineConfig(
        engine="transformers",
        weights=str(weights),
        dtype=dtype,
        batch_size=4,
        max_length=2048,
        seed=1,
        what="compare",
    )


def instances() -> list[Any]:
    """Nine prompts of different lengths, two of them alike, with five answers each."""
    from lm_eval.api.instance import Instance

    prompts = ["word " * (1 + 7 * number % 11) for number in range(8)]
    return [
        Instance("loglikelihood", {}, (prompt, continuation), number)
        for number, prompt in enumerate([*prompts, prompts[0]])
        for continuation in CONTINUATIONS
    ]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    return load_engine(config_for(tiny_llama))


def test_packed_answers_are_lm_evals_own(model: Any, tiny_llama: Path) -> None:
    from lm_eval.api.registry import get_model

    assert can_pack(model.model)
    stock = get_model("hf")(pretrained=str(tiny_llama), dtype="float32", device="cpu")
    wanted = stock.loglikelihood(instances(), disable_tqdm=True)
    for (found, greedy), (likelihood, is_greedy) in zip(
        model.loglikelihood(instances()), wanted, strict=True
    ):
        assert found == pytest.approx(likelihood, abs=1e-4)
        assert greedy == is_greedy


def test_other_families_are_scored_by_lm_eval_itself(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = model.loglikelihood(instances())
    monkeypatch.setattr(model.model.config, "sliding_window", 128, raising=False)
    assert not can_pack(model.model)
    for (found, greedy), (likelihood, is_greedy) in zip(
        model.loglikelihood(instances()), packed, strict=True
    ):
        assert found == pytest.approx(likelihood, abs=1e-4)
        assert greedy == is_greedy


def test_float32_logits_do_not_tie(tiny_llama: Path) -> None:
    model = load_engine(config_for(tiny_llama, "bfloat16"))
    scores = [score for score, _ in model.loglikelihood(instances()[::5])]
    assert len(set(scores)) == len({instance.args[0] for instance in instances()})


def test_the_context_is_the_smaller_of_the_suites_and_the_models(model: Any) -> None:
    assert model.max_length == 512


def test_a_text_that_leaves_no_room_for_its_answer_is_refused(model: Any) -> None:
    from lm_eval.api.instance import Instance

    asked = Instance("generate_until", {}, ("x" * 500, {"until": ["\n"], "max_gen_toks": 20}), 0)
    with pytest.raises(RequestTooLong, match=r"1 of 1 requests do not fit.*520 tokens where 511"):
        model.generate_until([asked])


def test_a_row_holds_a_prompt_once_and_every_answer_at_its_own_place() -> None:
    requests = [(None, [5, 6, 7], [1, 2]), (None, [5, 6, 7], [3]), (None, [8], [1, 2, 3])]
    first, second = pack(requests, max_length=100)
    assert first.tokens == [5, 6, 7, 1]  # the last token of an answer is only predicted
    assert first.positions == [0, 1, 2, 3]
    assert first.segments == [PROMPT, PROMPT, PROMPT, 1]
    assert first.targets == [(0, [2, 3], [1, 2]), (1, [2], [3])]
    assert (second.tokens, second.targets) == ([8, 1, 2], [(2, [0, 1, 2], [1, 2, 3])])


def test_rows_are_cut_where_answers_would_make_them_too_long() -> None:
    requests = [(None, [5] * 6, [number] * 3) for number in range(4)]
    assert [len(row.tokens) for row in pack(requests, max_length=11)] == [10, 10]


def test_children_are_offline_and_use_every_core_without_spinning() -> None:
    environment = scoring_environment()
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    assert environment["OMP_WAIT_POLICY"] == "passive"
