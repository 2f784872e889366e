"""Two ways to run the same weights agree within the policy's bounds, or there is a finding."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.items import ItemResult
from evals.parity import (
    AdapterParity,
    EngineParity,
    ParityBounds,
    compare_adapter,
    compare_engines,
    judge,
    load_bounds,
)
from pipelines.errors import ConfigError, UnusableEvidence
from tests.evals.evaluations import items, write_evaluation

OURS = items([1.0, 0.0, 1.0, 1.0])


def compared(tmp_path: Path, theirs: list[ItemResult], **changes: Any) -> EngineParity:
    changes = {"engine": "vllm 0.32.0 on cpu"} | changes
    ours = write_evaluation(tmp_path / "ours", OURS)
    return compare_engines(ours, write_evaluation(tmp_path / "theirs", theirs, **changes))


def test_agreement_is_no_finding(tmp_path: Path) -> None:
    found = compared(tmp_path, items([1.0, 0.0, 1.0, 1.0], outputs=(-0.5, -1.4)))
    assert found.engines == ("transformers 5.19.0 on cpu", "vllm 0.32.0 on cpu")
    assert (found.mean_difference_nats, found.largest_difference_nats) == (0.05, 0.1)
    assert found.disagreement == 0
    assert judge(ParityBounds(), found, AdapterParity(prompts=4, largest_difference_nats=0.1)) == ()


def test_items_that_score_differently_are_named_and_refused(tmp_path: Path) -> None:
    found = compared(tmp_path, items([1.0, 1.0, 1.0, 1.0]))
    assert found.disagreeing == ("one/item-1",)
    (finding,) = judge(ParityBounds(), found, None)
    assert (finding.rule, finding.severity) == ("parity", "refusal")
    assert "score 1 of 4 items differently" in finding.fact
    assert judge(ParityBounds(max_disagreement=0.25), found, None) == ()


def test_log_likelihoods_that_are_far_apart_are_refused(tmp_path: Path) -> None:
    found = compared(tmp_path, items([1.0, 0.0, 1.0, 1.0], outputs=(-0.5, -4.5)))
    (finding,) = judge(ParityBounds(), found, None)
    assert "differ by 1.5 nats an answer on average" in finding.fact


@pytest.mark.parametrize("difference", [0.3, math.nan, math.inf])
def test_merged_weights_that_are_far_from_their_adapter_are_refused(difference: float) -> None:
    found = AdapterParity(prompts=4, largest_difference_nats=difference)
    (finding,) = judge(ParityBounds(), None, found)
    assert "base + adapter and merged weights" in finding.fact


def test_texts_are_compared_by_score_alone(tmp_path: Path) -> None:
    texts = items([1.0, 0.0, 1.0, 1.0], outputs=())
    one = write_evaluation(tmp_path / "one", texts)
    found = compare_engines(one, write_evaluation(tmp_path / "two", texts))
    assert (found.mean_difference_nats, found.largest_difference_nats) == (None, None)
    assert judge(ParityBounds(), found, None) == ()


def test_other_prompts_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UnusableEvidence, match="not the same for both engines"):
        compared(tmp_path, [*OURS[:3], OURS[3]._replace(prompt_hash="f" * 64)])


@pytest.mark.parametrize("change", ["weight_digest", "suite_sha256", "template_sha256"])
def test_other_weights_suites_or_templates_are_not_compared(tmp_path: Path, change: str) -> None:
    with pytest.raises(UnusableEvidence, match="are of different"):
        compared(tmp_path, OURS, **{change: "f" * 64})


def test_bounds_come_from_the_policy_and_are_strict(tmp_path: Path) -> None:
    path = tmp_path / "parity.yaml"
    assert load_bounds(path) == ParityBounds()
    path.write_text("max_disagreement: 0.1\n")
    assert load_bounds(path).max_disagreement == 0.1
    path.write_text("max_disagrement: 0.1\n")
    with pytest.raises(ConfigError):
        load_bounds(path)


def test_the_bounds_that_the_page_shows_are_the_defaults() -> None:
    page = Path("docs/evaluate.md").read_text()
    (shown,) = re.findall(r"```yaml\n(max_disagreement.*?)```", page, re.DOTALL)
    assert ParityBounds.model_validate(yaml.safe_load(shown)) == ParityBounds()


@pytest.mark.long
def test_an_adapter_and_its_merged_weights_agree_and_others_do_not(
    tiny_llama: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, values in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = Path(shutil.copytree(tiny_llama, tmp_path / "merged"))
    assert isinstance(adapted, PeftModel)
    adapted.merge_and_unload().save_pretrained(merged)
    found = compare_adapter(tiny_llama, tmp_path / "adapter", merged, OURS)
    assert found.prompts == 4
    assert judge(ParityBounds(), None, found) == ()
    other = compare_adapter(tiny_llama, tmp_path / "adapter", tiny_llama, OURS)
    assert len(judge(ParityBounds(max_adapter_difference=1e-3), None, other)) == 1
