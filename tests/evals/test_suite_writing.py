"""One command makes a suite from a table; what cannot be used is named by its line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.suite_columns import Columns
from evals.suite_listing import SHIPPED, add_shipped, find_suite, list_suites, suite_facts
from evals.suite_writing import NewSuite, write_suite
from evals.suites import load_suite, load_task_file, read_rows, suite_digest, validate_suite
from pipelines.errors import ConfigError, SuiteRefused, UnknownName, WrongKindOfPath
from pipelines.training_rows import card_licence


def _table(tmp_path: Path, content: str | list[dict[str, Any]], suffix: str = ".csv") -> Path:
    if not isinstance(content, str):
        content, suffix = "".join(json.dumps(row) + "\n" for row in content), ".jsonl"
    path = tmp_path / f"data{suffix}"
    path.write_text(content, encoding="utf-8")
    return path


def _make(tmp_path: Path, content: str | list[dict[str, Any]], **more: Any) -> Path:
    source = _table(tmp_path, content, more.pop("suffix", ".csv"))
    return Path(write_suite(NewSuite(name="my-own", source=source, **more), tmp_path).folder)


def _parts(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    task = validate_suite(folder).tasks["my_own"]
    file = load_task_file(folder, "my_own", task)
    return file.model_dump(exclude_none=True), read_rows(folder / task.data)


WORDS = "id,question,answer,topic\n" + "".join(
    f'q{n},"What is {n}, plus 1?",{n + 1},sums\n' for n in range(12)
)


def test_answers_in_words_are_compared_as_text(tmp_path: Path) -> None:
    folder = _make(tmp_path, WORDS, licence="CC0-1.0")
    file, rows = _parts(folder)
    assert file["output_type"] == "generate_until"
    assert file["metric_list"][0]["metric"] == "exact_match"
    assert rows[1] == {"id": "q1", "question": "What is 1, plus 1?", "answer": "2", "topic": "sums"}
    task = load_suite(folder).tasks["my_own"]
    assert (task.slices, task.min_items) == (("topic",), 12)
    assert card_licence(folder) == "CC0-1.0"


def test_a_small_set_of_answers_becomes_labels(tmp_path: Path) -> None:
    rows = [{"text": f"Review {n}", "label": ("bad", "good")[n % 2]} for n in range(6)]
    file, items = _parts(_make(tmp_path, rows))
    assert file["output_type"] == "multiple_choice"
    assert file["doc_to_choice"] == ["bad", "good"]
    assert [item["answer"] for item in items] == [0, 1] * 3
    assert items[0]["id"] == "my-own-0001"


@pytest.mark.parametrize("answers", [["5", "7"], ["B", "a"], [1, 0], ["1", "0"]])
def test_choices_are_pointed_at_by_text_letter_or_number(
    tmp_path: Path, answers: list[Any]
) -> None:
    rows = [
        {"question": "Two and three?", "choices": ["4", "5", "6"], "answer": answers[0]},
        {"question": "Three and four?", "choices": ["7", "8"], "answer": answers[1]},
    ]
    file, items = _parts(_make(tmp_path, rows))
    assert (file["output_type"], file["doc_to_choice"]) == ("multiple_choice", "letters")
    assert [item["answer"] for item in items] == [1, 0]
    assert [item["letters"] for item in items] == [["A", "B", "C"], ["A", "B"]]
    assert items[1]["options"] == "A. 7\nB. 8"


@pytest.mark.parametrize(
    ("head", "cells"), [("A,B", "x,y"), ("options", "x|y"), ("choices", '"[""x"", ""y""]"')]
)
def test_choices_stand_in_one_column_or_in_several(tmp_path: Path, head: str, cells: str) -> None:
    folder = _make(tmp_path, f"question,{head},answer\nWhich?,{cells},y\nAnd?,{cells},x\n")
    _, items = _parts(folder)
    assert [(item["choices"], item["answer"]) for item in items] == [
        (["x", "y"], 1),
        (["x", "y"], 0),
    ]


def test_yes_and_no_of_json_are_labels(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 2 == 0} for n in range(6)]
    assert _parts(_make(tmp_path, rows))[0]["doc_to_choice"] == ["false", "true"]


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [
        {"nr": f"k{n}", "frage": f"Was ist {n}?", "loesung": f"das {n}", "text": "x", "art": "a"}
        for n in range(3)
    ]
    columns = Columns(id="nr", question="frage", answer="loesung", slices=("art",))
    _, items = _parts(_make(tmp_path, rows, columns=columns))
    assert items[2] == {"id": "k2", "question": "Was ist 2?", "answer": "das 2", "art": "a"}


def test_labels_that_look_like_templates_are_printed_as_they_are(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": ("{{id}}", "{% x %}")[n % 2]} for n in range(6)]
    file, _ = _parts(_make(tmp_path, rows))
    from jinja2 import Environment

    text = Environment(autoescape=False).from_string(file["doc_to_text"]).render(question="Q")
    assert text == "Q\n\nAnswer with {% x %} or {{id}}."


def test_the_same_table_gives_the_same_suite(tmp_path: Path) -> None:
    first = suite_digest(_make(tmp_path, WORDS))
    shutil.rmtree(tmp_path / "my-own")
    assert suite_digest(_make(tmp_path, WORDS)) == first


def test_a_table_with_tabs_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    text = "\ufeffquestion\tanswer\na, b?\t1\nc\t2\n"
    assert len(_parts(_make(tmp_path, text, suffix=".tsv"))[1]) == 2


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("", ["it holds no items"]),
        ("question,answer\n", ["it holds no items"]),
        ("question,answer\na,b\n", ["it holds one item"]),
        ("question,answer\na,b\nc,d,e\n", ["line 3 has 3 cells, the head 2"]),
        ('question,answer\n"a\nb",c\n,d\n', ["line 4 has no text under 'question'"]),
        ("question,answer\na,b\nc, \n", ["line 3 has no text under 'answer'"]),
        ("question,question\na,b\n", ["must name every column, each differently"]),
        ('question,answer\na,"b\n', ["unexpected end of data"]),
        ("id,question,answer\nx,a,b\ny,c,d\nx,e,f\n", ["the id 'x' stands on lines 2, 4"]),
        ("question,answer\na,yes\nb,yes\n", ["all 2 answers are 'yes'"]),
        ("words,answer\na,b\nc,d\n", ["like a question", "its columns are words, answer"]),
        ("question,A,B,answer\nq,x,y,z\nq,x,y,x\n", ["line 2: the answer 'z' is none of its 2"]),
        ("question,A,B,answer\nq,x,y,1\nq,x,y,2\n", ["line 3: the answer '2' is none"]),
        (
            "question,A,B,answer\nq,x,x,x\nq,x,,x\n",
            ["line 2 has a choice twice", "line 3 has no l"],
        ),
        ("question,options,answer\nq,[1,x\nr,x|y,x\n", ["line 2 has no list of 2 to 26 choices"]),
        ("question,A,B,C,answer\nq,x,y,z,1\nq,x,y,z,2\n", ["none is 0: count them from 0"]),
        ('{"question": "a"', ["neither .csv"]),
    ],
)
def test_a_table_that_is_no_suite_is_refused_with_its_lines(
    tmp_path: Path, content: str, facts: list[str]
) -> None:
    suffix = ".txt" if content.startswith("{") else ".csv"
    with pytest.raises(SuiteRefused) as refused:
        _make(tmp_path, content, suffix=suffix)
    assert all(any(fact in one for one in refused.value.facts) for fact in facts), refused.value
    assert not (tmp_path / "my-own").exists()
    assert [path.name for path in tmp_path.iterdir()] == [f"data{suffix}"]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("\n", "it holds no items"),
        ('{"question": "a", "answer": "b"}\n{"question": "a"}\n', "line 2 has the keys question"),
        ("[1]\n", "line 1 is not a JSON object"),
        ("{\n", "line 1 is not JSON"),
        ('{"question": "a", "answer": ["b"]}\n' * 2, "line 1 has no text under 'answer'"),
        ('{"question": "a", "answer": null}\n' * 2, "line 2 has no text under 'answer'"),
    ],
)
def test_json_lines_that_are_no_suite_are_refused(tmp_path: Path, content: str, fact: str) -> None:
    with pytest.raises(SuiteRefused, match=fact):
        _make(tmp_path, content, suffix=".jsonl")


def test_a_table_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes("question,answer\nWo?,überall\n".encode("latin-1"))
    with pytest.raises(SuiteRefused, match="byte 20 is not UTF-8"):
        write_suite(NewSuite(name="my-own", source=path), tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    _make(tmp_path, WORDS)
    with pytest.raises(WrongKindOfPath, match="a new folder"):
        _make(tmp_path, WORDS)
    with pytest.raises(WrongKindOfPath, match="file of questions"):
        write_suite(NewSuite(name="other", source=tmp_path / "none.csv"), tmp_path)


@pytest.mark.parametrize("name", ["", "a", "My", "a_b", "../x", "a.b", "-a"])
def test_names_are_those_of_folders_and_dvc(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a suite"):
        write_suite(NewSuite(name=name, source=_table(tmp_path, WORDS)), tmp_path)


def test_every_fact_against_a_suite_is_found(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED / "smoke", tmp_path / "smoke"))
    assert suite_facts(folder) == []
    (folder / "repeat.yaml").unlink()
    rows = read_rows(folder / "everyday.jsonl")[:3]
    text = "".join(json.dumps(row | {"topic": 1}) + "\n" for row in [*rows, rows[0]])
    (folder / "everyday.jsonl").write_text(text, encoding="utf-8")
    facts = " ".join(suite_facts(folder))
    for fact in ("4 items would be scored", "stand twice", "'topic' is missing", "repeat.yaml"):
        assert fact in facts
    suite = yaml.safe_load((folder / "suite.yaml").read_text())
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite | {"typo": 1}))
    assert ["typo: unknown key" in fact for fact in suite_facts(folder)] == [True]


def test_the_list_shows_both_places_and_what_is_broken(tmp_path: Path) -> None:
    suites = tmp_path / "suites"
    suites.mkdir()
    _make(suites, WORDS)
    shutil.copytree(SHIPPED / "smoke", suites / "smoke")
    (suites / "smoke" / "everyday.jsonl").unlink()
    listed = {(task.place, task.suite, task.task): task for task in list_suites(tmp_path)}
    assert listed["registry", "my-own", "my_own"].items == 12
    assert listed["registry", "my-own", "my_own"].licence == "not stated"
    assert "suites validate smoke" in listed["registry", "smoke", ""].problem
    assert ("shipped", "code", "humaneval") in listed
    assert not any(place == "shipped" and suite == "smoke" for place, suite, _ in listed)


def test_names_mean_the_registrys_suite_before_the_shipped_one(tmp_path: Path) -> None:
    assert find_suite("smoke", tmp_path) == SHIPPED / "smoke"
    assert add_shipped("smoke", tmp_path)
    assert find_suite("smoke", tmp_path) == tmp_path / "suites" / "smoke"
    assert find_suite("suites/smoke", None) == Path("suites/smoke")
    with pytest.raises(UnknownName, match="no suite named 'smok'"):
        find_suite("smok", tmp_path)


def test_a_shipped_suite_is_copied_once_and_never_over_another(tmp_path: Path) -> None:
    assert add_shipped("code", tmp_path)
    assert not add_shipped("code", tmp_path)
    readme = tmp_path / "suites" / "code" / "README.md"
    readme.write_text("mine")
    with pytest.raises(ConfigError, match="differs from the shipped one"):
        add_shipped("code", tmp_path)
    with pytest.raises(UnknownName, match="shipped suite"):
        add_shipped("cod", tmp_path)
