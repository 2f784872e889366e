"""Which columns of a table are question, answer, choices and slices, and the items they give."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from evals.suite_tables import QuestionTable, TableRow
from pipelines.canonical import Frozen
from pipelines.errors import SuiteRefused

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_LABELS = 10
ITEMS_PER_LABEL = 3  # fewer than this on average, and the answers are no labels but texts
MAX_SLICES = 20
_IDS = ("id", "item_id", "key")
_QUESTIONS = ("question", "prompt", "text", "input", "instruction", "query", "request")
_ANSWERS = ("answer", "label", "target", "gold", "output", "expected", "correct", "response")
_CHOICES = ("choices", "options", "endings")
_SLICES = ("category", "topic", "subject", "domain", "language", "slice")

Item = dict[str, Any]


class Columns(Frozen):
    """Columns by name; '' and () are found by their usual names.

    `choices` is one column with a list (JSON, or texts between |), or several with one choice each.
    """

    id: str = ""
    question: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()


class Items(Frozen):
    """What a table gives: items, and how they are asked.

    `labels` are the answers among which every item chooses, () where items have choices of their
    own or are answered in words.
    """

    columns: Columns
    labels: tuple[str, ...]
    rows: tuple[Item, ...]


def find_columns(table: QuestionTable, named: Columns) -> Columns:
    """The columns that are meant; raises SuiteRefused when one is absent or cannot be told."""
    asked = (named.id, named.question, named.answer, *named.choices, *named.slices)
    if absent := [name for name in asked if name and name not in table.columns]:
        facts = [f"it has no column {name!r}" for name in absent]
        raise SuiteRefused(table.path, [*facts, f"its columns are {', '.join(table.columns)}"])
    by_name = {name.casefold(): name for name in reversed(table.columns)}

    def usual(names: Sequence[str]) -> str:
        return next((by_name[name] for name in names if name in by_name), "")

    choices = named.choices or _usual_choices(by_name)
    taken = {*choices}
    answer = named.answer or usual([n for n in _ANSWERS if by_name.get(n) not in taken])
    taken.add(answer)
    question = named.question or usual([n for n in _QUESTIONS if by_name.get(n) not in taken])
    missing = [
        f"no column is called like {what} ({', '.join(usual_names[:4])}, …): name it with {option}"
        for what, option, usual_names, found in (
            ("a question", "--question", _QUESTIONS, question),
            ("an answer", "--answer", _ANSWERS, answer),
        )
        if not found
    ]
    if missing:
        raise SuiteRefused(table.path, [*missing, f"its columns are {', '.join(table.columns)}"])
    slices = named.slices or tuple(
        by_name[name]
        for name in _SLICES
        if name in by_name
        and by_name[name] not in {question, *taken}
        and _groups(table, by_name[name])
    )
    return Columns(
        id=named.id or usual(_IDS),
        question=question,
        answer=answer,
        choices=choices,
        slices=slices,
    )


def make_items(table: QuestionTable, columns: Columns, name: str) -> Items:
    """The items of a suite; ids that the table lacks are `name` with a number.

    Raises SuiteRefused with every fact found: texts that are missing, ids that stand twice, choices
    that are fewer than two or alike, answers that are none of the choices, answers that are all the
    same.
    """
    facts: list[str] = []
    rows: list[Item] = []
    for number, row in enumerate(table.rows, start=1):
        item: Item = {
            "id": _text(row, columns.id, facts) if columns.id else f"{name}-{number:04}",
            "question": _text(row, columns.question, facts),
            "answer": _text(row, columns.answer, facts),
        }
        item |= {field: _text(row, field, facts) for field in columns.slices}
        if columns.choices:
            item["choices"] = _choices(row, columns.choices, facts)
        rows.append(item)
    facts += _repeated(table, [row["id"] for row in rows])
    labels: tuple[str, ...] = ()
    if not facts and columns.choices:
        facts += _point_at_choices(table, rows)
    elif not facts:
        labels, found = _labels([row["answer"] for row in rows])
        facts += found
        for made in rows if labels else ():
            made["answer"] = labels.index(made["answer"])
    if facts:
        raise SuiteRefused(table.path, facts)
    return Items(columns=columns, labels=labels, rows=tuple(rows))


def _usual_choices(by_name: Mapping[str, str]) -> tuple[str, ...]:
    for name in _CHOICES:
        if name in by_name:
            return (by_name[name],)
    letters = []
    for letter in LETTERS.lower():
        if letter not in by_name:
            break
        letters.append(by_name[letter])
    return tuple(letters) if len(letters) > 1 else ()


def _groups(table: QuestionTable, column: str) -> bool:
    """Whether a column's values are few enough, and all texts, to report by."""
    values = [row.cells[column] for row in table.rows]
    texts = all(isinstance(value, str) and value.strip() for value in values)
    return texts and len(set(values)) <= min(MAX_SLICES, len(values) // 2)


def _text(row: TableRow, column: str, facts: list[str]) -> str:
    value = row.cells[column]
    if isinstance(value, (int, float)):
        value = str(value).lower()  # true and false as JSON writes them
    if not isinstance(value, str) or not value.strip():
        facts.append(f"line {row.line} has no text under {column!r}")
        return ""
    return value.strip()


def _choices(row: TableRow, columns: Sequence[str], facts: list[str]) -> list[str]:
    if len(columns) > 1:
        found: Any = [row.cells[column] for column in columns]
        found = [value for value in found if value not in ("", None)]
    else:
        found = row.cells[columns[0]]
        if isinstance(found, str):
            found = _listed(found)
    texts = [str(value).strip() for value in found] if isinstance(found, list) else []
    if not 2 <= len(texts) <= len(LETTERS) or not all(texts):
        facts.append(f"line {row.line} has no list of 2 to {len(LETTERS)} choices")
    elif len(set(texts)) < len(texts):
        facts.append(f"line {row.line} has a choice twice")
    return texts


def _listed(text: str) -> Any:
    if not text.lstrip().startswith("["):
        return text.split("|")
    try:
        return json.loads(text)
    except ValueError:
        return []


def _repeated(table: QuestionTable, ids: Sequence[str]) -> list[str]:
    lines: dict[str, list[int]] = {}
    for row, key in zip(table.rows, ids, strict=True):
        lines.setdefault(key, []).append(row.line)
    return [
        f"the id {key!r} stands on lines {', '.join(map(str, at))}"
        for key, at in lines.items()
        if key and len(at) > 1
    ]


def _point_at_choices(table: QuestionTable, rows: Sequence[Item]) -> list[str]:
    """Turn every answer into the place of its choice, from 0: a text, a letter, or a number.

    All answers are of one of these kinds. Numbers count from 0; a column whose numbers fit only
    when counted from 1 is refused rather than guessed at.
    """
    places = [_places(row["answer"], row["choices"]) for row in rows]
    if all(text is letter is None and number for text, letter, number in places):
        return ["the answers are numbers of choices, and none is 0: count them from 0"]
    for kind in range(3):
        if all(place[kind] is not None for place in places):
            for row, place in zip(rows, places, strict=True):
                row["answer"] = place[kind]
            return []
    return [
        f"line {row.line}: the answer {item['answer']!r} is none of its {len(item['choices'])} "
        f"choices: not their text, nor a letter from A, nor a number from 0"
        for row, item, place in zip(table.rows, rows, places, strict=True)
        if all(one is None for one in place) or place[0] is None
    ]


def _places(answer: str, choices: Sequence[str]) -> tuple[int | None, int | None, int | None]:
    text = choices.index(answer) if answer in choices else None
    letter = LETTERS.find(answer.upper()) if len(answer) == 1 else -1
    number = int(answer) if answer.isascii() and answer.isdigit() else -1
    count = len(choices)
    return (
        text,
        letter if 0 <= letter < count else None,
        number if 0 <= number < count else None,
    )


def _labels(answers: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The label set, () where answers are texts; and what is wrong with it."""
    counts = Counter(answers)
    if len(counts) == 1:
        return (), [f"all {len(answers)} answers are {answers[0]!r}, so that none is learnt"]
    small = len(counts) <= MAX_LABELS and len(answers) >= ITEMS_PER_LABEL * len(counts)
    return (tuple(sorted(counts)) if small else ()), []
