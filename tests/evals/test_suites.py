"""Suites are read strictly, and checked before any model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.suites import load_suite, suite_digest, task_digest, validate_suite
from pipelines.errors import ConfigError, UnusableEvidence, WrongKindOfPath


def edit_yaml(path: Path, **changes: Any) -> None:
    """Change top-level keys of a YAML file; None removes one."""
    parsed = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({k: v for k, v in parsed.items() if v is not None}))


def edit_task(suite: Path, **changes: Any) -> None:
    """Change the smoke suite's task `everyday` in suite.yaml."""
    tasks = yaml.safe_load((suite / "suite.yaml").read_text())["tasks"]
    edit_yaml(suite / "suite.yaml", tasks=tasks | {"everyday": tasks["everyday"] | changes})


def rows(suite: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (suite / "everyday.jsonl").read_text().splitlines()]


def write_rows(suite: Path, content: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in content)
    (suite / "everyday.jsonl").write_text(text)


def test_the_shipped_suite_is_valid(suite: Path) -> None:
    assert list(validate_suite(suite).tasks) == ["everyday", "repeat"]


def test_an_unknown_key_is_refused(suite: Path) -> None:
    edit_yaml(suite / "suite.yaml", shots=3)
    with pytest.raises(ConfigError, match="shots: unknown key"):
        load_suite(suite)


def test_an_unknown_key_of_a_task_is_refused(suite: Path) -> None:
    edit_task(suite, minimum=3)
    with pytest.raises(ConfigError, match=r"tasks\.everyday\.minimum: unknown key"):
        load_suite(suite)


def test_a_suite_without_tasks_is_refused(suite: Path) -> None:
    edit_yaml(suite / "suite.yaml", tasks={})
    with pytest.raises(ConfigError, match="tasks"):
        load_suite(suite)


@pytest.mark.parametrize("name", ["../other.yaml", "/etc/passwd", ".hidden", ""])
def test_files_of_a_suite_lie_in_its_folder(suite: Path, name: str) -> None:
    edit_task(suite, data=name)
    with pytest.raises(ConfigError, match=r"tasks\.everyday\.data"):
        load_suite(suite)


def test_a_folder_without_a_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath):
        load_suite(tmp_path / "nothing")
    with pytest.raises(WrongKindOfPath):
        load_suite(tmp_path)


@pytest.mark.parametrize("name", ["everyday.yaml", "everyday.jsonl"])
def test_a_missing_file_is_refused(suite: Path, name: str) -> None:
    (suite / name).unlink()
    with pytest.raises(WrongKindOfPath, match=name):
        validate_suite(suite)


def test_a_metric_that_the_task_does_not_produce_is_refused(suite: Path) -> None:
    edit_task(suite, metric="acc_norm")
    with pytest.raises(ConfigError, match=r"does not produce .*acc_norm.*acc,none"):
        validate_suite(suite)


def test_a_filter_that_the_task_does_not_have_is_refused(suite: Path) -> None:
    edit_task(suite, metric="acc,strict")
    with pytest.raises(ConfigError, match="acc,strict"):
        validate_suite(suite)


def test_directions_that_contradict_each_other_are_refused(suite: Path) -> None:
    edit_task(suite, higher_is_better=False)
    with pytest.raises(ConfigError, match="higher_is_better"):
        validate_suite(suite)


def test_another_task_name_is_refused(suite: Path) -> None:
    edit_yaml(suite / "everyday.yaml", task="weekly")
    with pytest.raises(ConfigError, match="'weekly'"):
        validate_suite(suite)


@pytest.mark.parametrize("key", ["include", "dataset_path", "unsafe_code", "process_docs"])
def test_keys_that_run_code_or_fetch_are_refused(suite: Path, key: str) -> None:
    edit_yaml(suite / "everyday.yaml", **{key: "hellaswag"})
    with pytest.raises(ConfigError, match=f"{key}: unknown key"):
        validate_suite(suite)


def test_python_in_a_task_file_is_refused(suite: Path) -> None:
    path = suite / "everyday.yaml"
    path.write_text(path.read_text() + "metadata: {f: !function utils.f}\n")
    with pytest.raises(ConfigError, match="!function"):
        validate_suite(suite)


@pytest.mark.parametrize(
    ("removed", "output_type", "fact"),
    [
        ("doc_to_choice", "multiple_choice", "needs doc_to_choice"),
        ("doc_to_choice", "generate_until", "needs generation_kwargs"),
    ],
)
def test_a_task_has_what_its_kind_needs(
    suite: Path, removed: str, output_type: str, fact: str
) -> None:
    edit_yaml(suite / "everyday.yaml", output_type=output_type, **{removed: None})
    with pytest.raises(ConfigError, match=fact):
        validate_suite(suite)


def test_few_shot_without_examples_is_refused(suite: Path) -> None:
    edit_yaml(suite / "everyday.yaml", num_fewshot=2)
    with pytest.raises(ConfigError, match=r"fewshot_config\.samples"):
        validate_suite(suite)


def test_few_shot_examples_drawn_at_random_are_refused(suite: Path) -> None:
    path = suite / "repeat.yaml"
    path.write_text(path.read_text() + "fewshot_config: {sampler: default, samples: [{word: a}]}\n")
    with pytest.raises(ConfigError, match="can only be first_n"):
        validate_suite(suite)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_field_that_is_no_finite_number_is_refused(suite: Path, number: str) -> None:
    data = suite / "everyday.jsonl"
    data.write_text(data.read_text().replace('"answer": 2', f'"answer": {number}', 1))
    with pytest.raises(UnusableEvidence, match=f"{number} is no number"):
        validate_suite(suite)


@pytest.mark.parametrize("kind", ["cluster", "slices"])
def test_a_field_to_group_by_that_items_lack_is_refused(suite: Path, kind: str) -> None:
    edit_task(suite, **{kind: "source" if kind == "cluster" else ["source"]})
    with pytest.raises(UnusableEvidence, match="'source' is missing or no text"):
        validate_suite(suite)


@pytest.mark.parametrize("weight", [0, -1, "NaN"])
def test_a_weight_that_is_no_positive_number_is_refused(suite: Path, weight: object) -> None:
    edit_task(suite, weight=weight)
    with pytest.raises(ConfigError):
        validate_suite(suite)


def test_empty_data_are_refused(suite: Path) -> None:
    (suite / "everyday.jsonl").write_text("\n")
    with pytest.raises(UnusableEvidence, match="no items"):
        validate_suite(suite)


def test_too_few_items_are_refused(suite: Path) -> None:
    edit_task(suite, min_items=15)
    with pytest.raises(UnusableEvidence, match="14 items would be scored, min_items is 15"):
        validate_suite(suite)


def test_a_limit_below_the_minimum_is_refused(suite: Path) -> None:
    edit_task(suite, limit=5)
    with pytest.raises(UnusableEvidence, match="5 items would be scored"):
        validate_suite(suite)


def test_a_suite_of_one_item_is_refused(suite: Path) -> None:
    edit_task(suite, min_items=1)
    with pytest.raises(ConfigError, match="min_items"):
        validate_suite(suite)


def test_duplicate_ids_are_refused(suite: Path) -> None:
    write_rows(suite, [*rows(suite), rows(suite)[0]])
    with pytest.raises(UnusableEvidence, match="ids that stand twice: everyday-01"):
        validate_suite(suite)


def test_items_without_an_id_are_refused(suite: Path) -> None:
    write_rows(suite, [row | {"id": ""} if row["answer"] else row for row in rows(suite)])
    with pytest.raises(UnusableEvidence, match="9 items without an id"):
        validate_suite(suite)


def test_items_with_other_keys_are_refused(suite: Path) -> None:
    write_rows(suite, [*rows(suite), {"id": "x", "topic": "time"}])
    with pytest.raises(UnusableEvidence, match="other keys than the first, item 15 first"):
        validate_suite(suite)


def test_a_slice_that_items_lack_is_refused(suite: Path) -> None:
    edit_task(suite, slices=["answer"])
    with pytest.raises(UnusableEvidence, match="'answer' is missing or no text"):
        validate_suite(suite)


@pytest.mark.parametrize("line", ["{", "[1]", "3", '"text"'])
def test_a_line_that_is_no_object_is_refused(suite: Path, line: str) -> None:
    path = suite / "everyday.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UnusableEvidence, match="line 15"):
        validate_suite(suite)


def test_the_digest_covers_every_file(suite: Path) -> None:
    before = suite_digest(suite)
    assert suite_digest(suite) == before
    write_rows(suite, rows(suite)[::-1])
    assert suite_digest(suite) != before


def test_a_tasks_digest_ignores_comments_and_covers_prompts(suite: Path) -> None:
    task = load_suite(suite).tasks["everyday"]
    before = task_digest(suite, "everyday", task)
    path = suite / "everyday.yaml"
    path.write_text("# a comment\n" + path.read_text())
    assert task_digest(suite, "everyday", task) == before
    path.write_text(path.read_text().replace("one letter", "a letter"))
    assert task_digest(suite, "everyday", task) != before
