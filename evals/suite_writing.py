"""A suite of one's own from a table of questions: suite.yaml, task file, items and README."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import yaml

from evals.suite_columns import LETTERS, Columns, Item, Items, find_columns, make_items
from evals.suite_tables import read_table
from evals.suites import Engine, validate_suite
from pipelines.canonical import Frozen, sha256_file
from pipelines.errors import ConfigError, WrongKindOfPath

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*[a-z0-9]")
_CHARACTERS_PER_TOKEN = 2  # cautious: an answer that is cut is wrong
_LEAST_TOKENS, _MOST_TOKENS = 16, 512


class NewSuite(Frozen):
    """What to make. `licence` is of the data, SPDX, '' where it is not known."""

    name: str
    source: Path
    columns: Columns = Columns()
    engine: Engine = "transformers"
    chat_template: bool = True
    description: str = ""
    licence: str = ""


class Written(Frozen):
    """What was made: `kind` says how items are asked, `columns` what was read as what."""

    folder: str
    items: int
    kind: str
    columns: Columns


def write_suite(new: NewSuite, parent: Path) -> Written:
    """Make `parent`/NAME from the table; it is checked as any suite before it appears.

    Raises ConfigError for a name that cannot be one, WrongKindOfPath when the folder is there,
    SuiteRefused with the lines of the table that cannot be used, and what `validate_suite` raises.
    """
    if not _NAME.fullmatch(new.name):
        fact = f"{new.name!r} cannot name a suite"
        raise ConfigError("suites", fact, "Names match [a-z0-9][a-z0-9-]*[a-z0-9].")
    folder = parent / new.name
    if folder.exists():
        raise WrongKindOfPath(folder, "a new folder")
    table = read_table(new.source)
    items = make_items(table, find_columns(table, new.columns), new.name)
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{new.name}-", dir=parent) as made:
        building = Path(made) / new.name
        building.mkdir()
        _write_files(building, new, items)
        validate_suite(building)
        building.rename(folder)
    return Written(
        folder=str(folder), items=len(items.rows), kind=_kind(items), columns=items.columns
    )


def _write_files(folder: Path, new: NewSuite, items: Items) -> None:
    task = new.name.replace("-", "_")
    definition, metric = _task_file(task, items)
    suite = {
        "description": new.description or f"{len(items.rows)} items from {new.source.name}",
        "engine": new.engine,
        "dtype": "bfloat16",
        "apply_chat_template": new.chat_template,
        "batch_size": 8,
        "seed": 0,
        "max_length": 2048,
        "tasks": {
            task: {
                "file": f"{task}.yaml",
                "data": f"{task}.jsonl",
                "metric": metric,
                "higher_is_better": True,
                "min_items": len(items.rows),
                "slices": list(items.columns.slices),
            }
        },
    }
    rows = [_row(item, items) for item in items.rows]
    for name, text in (
        ("suite.yaml", _yaml(suite)),
        (f"{task}.yaml", _yaml(definition)),
        (f"{task}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)),
        ("README.md", _readme(new, items)),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def _kind(items: Items) -> str:
    if items.columns.choices:
        return "choices"
    return "labels" if items.labels else "words"


def _row(item: Item, items: Items) -> Item:
    if not items.columns.choices:
        return item
    count = len(item["choices"])
    return item | {
        "options": "\n".join(
            f"{letter}. {choice}" for letter, choice in zip(LETTERS, item["choices"], strict=False)
        ),
        "letters": list(LETTERS[:count]),
    }


def _task_file(task: str, items: Items) -> tuple[dict[str, object], str]:
    """The lm-eval task, and the metric that the suite reads of it."""
    kind = _kind(items)
    if kind == "words":
        answers = [str(item["answer"]) for item in items.rows]
        metric: dict[str, object] = {"ignore_case": True, "ignore_punctuation": True}
        definition: dict[str, object] = {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}\n\nGive the answer only.",
            "doc_to_target": "answer",
            "generation_kwargs": {
                "until": [] if any("\n" in answer for answer in answers) else ["\n"],
                "max_gen_toks": _tokens(max(map(len, answers))),
                "do_sample": False,
            },
        }
        return _with_metric(task, definition, "exact_match", metric), "exact_match"
    if kind == "choices":
        definition = {
            "doc_to_text": "{{question}}\n{{options}}\nAnswer with one letter.",
            "doc_to_choice": "letters",
        }
    else:
        wanted = " or ".join([", ".join(items.labels[:-1]), items.labels[-1]])
        definition = {
            "doc_to_text": "{{question}}\n\nAnswer with " + _literal(wanted) + ".",
            "doc_to_choice": list(items.labels),
        }
    definition = {"output_type": "multiple_choice", **definition, "doc_to_target": "answer"}
    return _with_metric(task, definition, "acc", {}), "acc"


def _with_metric(
    task: str, definition: dict[str, object], metric: str, more: dict[str, object]
) -> dict[str, object]:
    stated = {"metric": metric, "aggregation": "mean", "higher_is_better": True, **more}
    return {"task": task, **definition, "metric_list": [stated]}


def _tokens(characters: int) -> int:
    return max(_LEAST_TOKENS, min(_MOST_TOKENS, characters // _CHARACTERS_PER_TOKEN + 8))


def _literal(text: str) -> str:
    """A text that Jinja prints as it is: labels come from the user's data."""
    return "{{" + json.dumps(text, ensure_ascii=False) + "}}" if "{" in text else text


def _yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _readme(new: NewSuite, items: Items) -> str:
    front = f"---\nlicense: {new.licence}\n---\n\n" if new.licence else ""
    stated = new.licence or "not stated: say here where the items come from, and under which terms"
    columns = ", ".join(
        f"{part}: {value if isinstance(value, str) else ' '.join(value)}"
        for part, value in items.columns
        if value
    )
    return (
        f"{front}# {new.name}\n\n{len(items.rows)} items from `{new.source.name}` (sha256 "
        f"{sha256_file(new.source)}).\nColumns: {columns}.\nLicence: {stated}.\n"
    )
