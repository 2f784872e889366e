"""Every fault planted in training data is found, and the rows that have it are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.canonical import sha256_file
from pipelines.dataset_checks import check_dataset
from pipelines.errors import DatasetRefused
from pipelines.recipe import DatasetRules, Recipe
from pipelines.training_rows import Row, card_licence, read_rows
from pipelines.training_tokens import IGNORED, TokenisedRow

RULES = DatasetRules(
    min_rows=10, allowed_licences=("CC-BY-4.0", "MIT"), max_characters=500, min_characters=2
)
RECIPE = Recipe(checks=RULES, steps=1, learning_rate=1e-3, max_length=50)
DIGEST = "d" * 64
CARD = "---\nlicense: cc-by-4.0\n---\n# Rows\n"


def row(number: int, **change: Any) -> dict[str, Any]:
    content = {
        "id": f"r{number}",
        "messages": [
            {"role": "user", "content": f"Is {number} even?"},
            {"role": "assistant", "content": f"{number} is {'odd' if number % 2 else 'even'}."},
        ],
    }
    return {**content, **change}


def asks(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def write(folder: Path, rows: list[dict[str, Any]], card: str = CARD) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(entry) for entry in rows]
    (folder / "train.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "README.md").write_text(card)
    return folder


def tokens_of(rows: tuple[Row, ...], lengths: dict[str, int] | None = None) -> list[TokenisedRow]:
    """Rows of 20 tokens, the last 5 with loss, or as long as `lengths` says before the cut."""
    made = []
    for entry in rows:
        length = (lengths or {}).get(entry.id, 20)
        labels = [IGNORED] * (length - 5) + [7] * 5
        made.append(TokenisedRow(entry.id, [7] * min(length, 50), labels[:50], length))
    return made


def check(
    folder: Path, out: Path, recipe: Recipe = RECIPE, lengths: dict[str, int] | None = None
) -> Any:
    rows = read_rows(folder)
    return check_dataset(folder, DIGEST, recipe, rows, tokens_of(rows, lengths), out)


def test_sound_data_passes_and_gives_the_same_report_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [row(n) for n in range(12)])
    checks = check(folder, tmp_path / "a")
    check(folder, tmp_path / "b")
    assert checks.passed
    assert checks.rows == 12
    assert checks.results[0].expectation == "ExpectTableRowCountToBeBetween"
    for name in ("results.json", "report.md"):
        assert sha256_file(tmp_path / "a" / name) == sha256_file(tmp_path / "b" / name)


FAULTS: dict[str, tuple[dict[int, dict[str, Any]], str]] = {
    "duplicate id": ({4: {"id": "r3"}}, "ids are unique' fails for 2 rows: r3"),
    "same content, other case and spacing": (
        {5: {"messages": asks("is  3 EVEN?", "3 is odd.")}},
        "contents are unique' fails for 2 rows: r3, r5",
    ),
    "one prompt, two answers": (
        {5: {"messages": asks("Is 3 even?", "Yes it is.")}},
        "no prompt has two answers' fails for 2 rows: r3, r5",
    ),
    "licence that is not allowed": ({6: {"licence": "CC-BY-NC-4.0"}}, "licence is one of .*: r6"),
    "credential": (
        {7: {"messages": asks("My key is AK" + "IA" + "Q" * 16 + ", ok?", "Never share it.")}},
        "credential' fails for 1 rows: r7",
    ),
    "private key": (
        {7: {"messages": asks("-----BEGIN RSA PRIV" + "ATE KEY-----\nMII", "Never share it.")}},
        "credential' fails for 1 rows: r7",
    ),
    "message that is too short": ({8: {"messages": asks("?", "No idea.")}}, "at least 2 .*: r8"),
    "row that is too long": (
        {9: {"messages": asks("x" * 600, "Long.")}},
        "at most 500 characters' fails for 1 rows: r9",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_its_rows_are_named(tmp_path: Path, fault: str) -> None:
    changes, reason = FAULTS[fault]
    rows = [row(n, **changes.get(n, {})) for n in range(12)]
    with pytest.raises(DatasetRefused, match=reason):
        check(write(tmp_path / "data", rows), tmp_path / "out")
    assert "**Refused.**" in (tmp_path / "out" / "report.md").read_text()


def test_all_faults_are_reported_at_once_without_the_values(tmp_path: Path) -> None:
    secret = "gh" + "p_" + "a1B2" * 10
    rows = [row(n) for n in range(12)]
    rows[1] = row(1, messages=asks(f"Use {secret} now", "No."))
    rows[2] = row(2, licence="GPL-3.0-only")
    with pytest.raises(DatasetRefused) as caught:
        check(write(tmp_path / "data", rows), tmp_path / "out")
    assert len(caught.value.reasons) == 2
    written = [path.read_text() for path in (tmp_path / "out").iterdir()]
    assert not any(secret in text for text in [*written, str(caught.value)])


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [row(n) for n in range(9)])
    with pytest.raises(DatasetRefused, match="there are 10 to 1000000 rows' fails: 9"):
        check(folder, tmp_path / "out")


def test_rows_over_the_token_limit_are_named_and_tolerated_only_as_stated(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [row(n) for n in range(12)])
    long = {"r2": 51, "r7": 52}
    with pytest.raises(DatasetRefused, match="at most 50 tokens' fails for 2 rows: r2, r7"):
        check(folder, tmp_path / "refused", lengths=long)
    rules = RULES.model_copy(update={"max_rows_too_long": 2})
    recipe = RECIPE.model_copy(update={"checks": rules})
    checks = check(folder, tmp_path / "passed", recipe, long)
    (result,) = [r for r in checks.results if r.settings.get("column") == "tokens"]
    assert (result.passed, result.failing, result.failing_ids) == (True, 2, ("r2", "r7"))


def test_a_row_whose_answer_is_cut_away_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [row(n) for n in range(12)])
    rules = RULES.model_copy(update={"max_rows_too_long": 12})
    recipe = RECIPE.model_copy(update={"checks": rules})
    with pytest.raises(DatasetRefused, match=r"token of the answer lies .* fails for 1 rows: r5"):
        check(folder, tmp_path / "out", recipe, {"r5": 60})


def test_empty_data_is_refused_before_any_rule_runs(tmp_path: Path) -> None:
    with pytest.raises(DatasetRefused, match="it holds no row"):
        read_rows(write(tmp_path / "data", []))
    with pytest.raises(DatasetRefused, match="it holds no row"):
        check_dataset(tmp_path, DIGEST, RECIPE, (), (), tmp_path / "out")


def test_a_folder_without_rows_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetRefused, match=r"there is no train\.jsonl"):
        read_rows(tmp_path)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"label": "even"}, "unknown key label"),
    "no messages": ({"messages": []}, "they are none"),
    "ends with the user": ({"messages": asks("a", "b")[:1]}, "they are user"),
    "two answers in a row": (
        {"messages": [*asks("a", "b"), {"role": "assistant", "content": "c"}]},
        "they are user, assistant, assistant",
    ),
    "unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\.0\.role"),
    "empty answer": ({"messages": asks("a", " ")}, "a message of the assistant is empty"),
    "answer not trimmed": ({"messages": asks("a", " b")}, "begins or ends with white space"),
    "no id": ({"id": ""}, "id: String should have at least 1 character"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_row_that_does_not_fit_is_named_by_line(tmp_path: Path, fault: str) -> None:
    change, reason = BROKEN[fault]
    folder = write(tmp_path / "data", [row(0), row(1, **change), row(2), row(3, **change)])
    with pytest.raises(DatasetRefused, match=f"line 2, 4: .*{reason}"):
        read_rows(folder)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [row(0)])
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"id": "x"\n')
    with pytest.raises(DatasetRefused, match="line 2: Invalid JSON"):
        read_rows(folder)


def test_a_row_without_licence_has_the_cards(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [row(0), row(1, licence="MIT")])
    assert [entry.licence for entry in read_rows(folder)] == ["cc-by-4.0", "MIT"]


def test_rows_with_no_licence_anywhere_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [row(n) for n in range(12)], card="# Rows\n")
    with pytest.raises(DatasetRefused, match="every row has a licence' fails for 12 rows"):
        check(folder, tmp_path / "out")


def test_a_card_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [row(0)], card="---\nlicense: [\n---\n")
    with pytest.raises(DatasetRefused, match="front matter is not YAML"):
        card_licence(folder)
