"""The gate on lm-eval's own output folders, without a registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval_samples import flipped, line, outcomes, write

from evals.gate import gate_folders
from pipelines.errors import UnusableEvidence, WrongKindOfPath

POLICY = "alpha: 0.05\ntasks: {'*': {margin: 0.05}}\n"
Change = Callable[[list[dict[str, Any]]], object]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_an_equal_candidate_passes_and_a_worse_one_is_blocked(tmp_path: Path, policy: Path) -> None:
    right = [line(number, True) for number in range(1000)]
    base = write(tmp_path / "base", flipped(right, range(0, 300)))
    equal = write(tmp_path / "equal", flipped(right, range(20, 320)))
    worse = write(tmp_path / "worse", flipped(right, range(0, 400)))

    assert gate_folders(equal, base, policy).outcome == "pass"
    verdict = gate_folders(worse, base, policy)
    assert verdict.outcome == "block"
    assert verdict.tasks[0].task == "lm-eval/capitals"
    assert (verdict.name, verdict.baseline) == ("worse", "base")


def test_few_items_cannot_tell(tmp_path: Path, policy: Path) -> None:
    base = write(tmp_path / "base", outcomes(40, 0.7, seed=1))
    other = write(tmp_path / "other", outcomes(40, 0.7, seed=2))

    assert gate_folders(other, base, policy).outcome == "cannot_tell"


def test_the_order_of_items_plays_no_part(tmp_path: Path, policy: Path) -> None:
    lines = outcomes(400, 0.7, seed=1)
    base = write(tmp_path / "base", outcomes(400, 0.7, seed=2))
    one = gate_folders(write(tmp_path / "a", lines), base, policy)
    other = gate_folders(write(tmp_path / "b", lines[::-1]), base, policy)

    assert one.tasks == other.tasks


def test_every_metric_of_a_task_is_judged(tmp_path: Path, policy: Path) -> None:
    both = ("acc", "acc_norm")
    lines = [line(number, number % 3 > 0, both) for number in range(1000)]
    base = write(tmp_path / "base", lines)
    collapsed = write(tmp_path / "other", [{**entry, "acc_norm": 0.0} for entry in lines])

    verdict = gate_folders(collapsed, base, policy)

    assert {task.task: task.outcome for task in verdict.tasks} == {
        "lm-eval/capitals:acc": "pass",
        "lm-eval/capitals:acc_norm": "block",
    }


def test_a_policy_may_name_the_metric_of_a_task(tmp_path: Path, policy: Path) -> None:
    both = ("acc", "acc_norm")
    lines = [line(number, number % 3 > 0, both) for number in range(1000)]
    base = write(tmp_path / "base", lines)
    other = write(tmp_path / "other", [{**entry, "acc_norm": 0.0} for entry in lines])
    policy.write_text("alpha: 0.05\ntasks: {capitals: {margin: 0.05, metric: acc}}\n")

    assert gate_folders(other, base, policy).outcome == "pass"
    policy.write_text("alpha: 0.05\ntasks: {capitals: {margin: 0.05, metric: f1}}\n")
    with pytest.raises(UnusableEvidence, match=r"asks for f1.*acc,none, acc_norm,none"):
        gate_folders(other, base, policy)


def test_lower_is_better_where_lm_eval_says_so(tmp_path: Path, policy: Path) -> None:
    base = write(tmp_path / "base", [line(n, n % 2 > 0, ("toxic",)) for n in range(1000)])
    other = write(tmp_path / "other", [line(n, n % 4 > 1, ("toxic",)) for n in range(1000)])
    for folder in (base, other):
        said = {"higher_is_better": {"capitals": {"toxic": False}}}
        (folder / "my__model/results_2026-11-22T10-00-00.json").write_text(json.dumps(said))
    worse = write(tmp_path / "worse", [line(n, True, ("toxic",)) for n in range(1000)])
    (worse / "results_2026-11-22T10-00-00.json").write_text(json.dumps(said))

    assert gate_folders(worse, base, policy).outcome == "block"


def duplicate(lines: list[dict[str, Any]]) -> None:
    lines.append(lines[0])


def drop(lines: list[dict[str, Any]]) -> None:
    lines.pop()


def not_a_number(lines: list[dict[str, Any]]) -> None:
    lines[3]["acc"] = float("nan")


def answer_of_nan(lines: list[dict[str, Any]]) -> None:
    lines[3]["resps"] = [[["nan", "False"]]]


def other_prompt(lines: list[dict[str, Any]]) -> None:
    lines[3]["prompt_hash"] = "f" * 64


def pair_of_numbers(lines: list[dict[str, Any]]) -> None:
    lines[3]["acc"] = [-3.5, 7]


def nothing_left(lines: list[dict[str, Any]]) -> None:
    lines.clear()


def no_metrics(lines: list[dict[str, Any]]) -> None:
    for entry in lines:
        entry["metrics"] = []


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (duplicate, "scored more than once"),
        (drop, "different documents"),
        (not_a_number, "not a finite number"),
        (answer_of_nan, "not a finite number"),
        (other_prompt, "other prompts"),
        (pair_of_numbers, "no number for one document"),
        (nothing_left, "there are no items"),
        (no_metrics, "name no metric"),
    ],
)
def test_samples_that_cannot_carry_a_decision_are_refused(
    tmp_path: Path, policy: Path, change: Change, fact: str
) -> None:
    base = write(tmp_path / "base", outcomes(100, 0.7, seed=1))
    lines = outcomes(100, 0.7, seed=2)
    change(lines)

    with pytest.raises(UnusableEvidence, match=fact):
        gate_folders(write(tmp_path / "other", lines), base, policy)


def test_fewer_samples_than_lm_eval_counts_are_refused(tmp_path: Path, policy: Path) -> None:
    base = write(tmp_path / "base", outcomes(100, 0.7, seed=1))
    other = write(tmp_path / "other", outcomes(100, 0.7, seed=2))
    said = {"n-samples": {"capitals": {"original": 200, "effective": 200}}}
    (other / "results_2026-11-22T10-00-00.json").write_text(json.dumps(said))

    with pytest.raises(UnusableEvidence, match=r"100 documents, and results_.* counts 200"):
        gate_folders(other, base, policy)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, policy: Path) -> None:
    base = write(tmp_path / "base", outcomes(100, 0.7, seed=1))
    (path,) = base.rglob("*.jsonl")
    path.with_name("samples_capitals_2026-11-23T10-00-00.5.jsonl").write_bytes(path.read_bytes())

    with pytest.raises(UnusableEvidence, match="two files of samples for capitals"):
        gate_folders(base, write(tmp_path / "other", outcomes(100, 0.7, seed=2)), policy)


def test_a_run_is_not_compared_with_itself(tmp_path: Path, policy: Path) -> None:
    base = write(tmp_path / "base", outcomes(100, 0.7, seed=1))

    with pytest.raises(UnusableEvidence, match="it is the candidate and the baseline"):
        gate_folders(base, base, policy)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_folder_without_samples_is_refused(tmp_path: Path, policy: Path, name: str) -> None:
    base = write(tmp_path / "base", outcomes(100, 0.7, seed=1))
    (tmp_path / "empty").mkdir()

    with pytest.raises(WrongKindOfPath):
        gate_folders(tmp_path / name, base, policy)


def test_a_metric_of_unknown_direction_is_refused(tmp_path: Path, policy: Path) -> None:
    base = write(tmp_path / "base", [line(n, n % 2 > 0, ("toxic",)) for n in range(100)])
    other = write(tmp_path / "other", [line(n, True, ("toxic",)) for n in range(100)])

    with pytest.raises(UnusableEvidence, match="whether more toxic is better is not known"):
        gate_folders(other, base, policy)


def test_results_that_are_no_object_are_refused(tmp_path: Path, policy: Path) -> None:
    base = write(tmp_path / "base", outcomes(100, 0.7, seed=1))
    other = write(tmp_path / "other", outcomes(100, 0.7, seed=2))
    (other / "results_2026-11-22T10-00-00.json").write_text("[]")

    with pytest.raises(UnusableEvidence, match="no JSON object"):
        gate_folders(other, base, policy)
