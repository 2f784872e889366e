"""Training data as it lies in a registry: datasets/NAME/train.jsonl, one conversation a line.

    {"id": "a1", "messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}],
     "licence": "CC-BY-4.0", "source": "…"}

`licence` and `source` may be left out; a row without a licence has that of the data set's card,
which is `license:` in the front matter of README.md, as dataset cards on the Hub state it.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from pipelines.canonical import Frozen, sha256_bytes
from pipelines.errors import DatasetRefused

ROWS_FILE = "train.jsonl"
CARD_FILE = "README.md"
LISTED = 10  # failing rows that one message names; all of them are counted


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Row(Frozen):
    """One conversation to learn from."""

    id: str = Field(min_length=1, max_length=200)
    messages: tuple[Message, ...]
    licence: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _turns_alternate(self) -> Self:
        roles = [message.role for message in self.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        pairs = ["user", "assistant"] * (len(turns) // 2)
        if not turns or turns != pairs:
            raise ValueError(
                "messages must be user and assistant in turn, ending with assistant (a system "
                f"message may come first), and they are {', '.join(roles) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _answers_are_trimmed(self) -> Self:
        # Templates put a line break before an answer or trim it: white space at its ends would be
        # tokenised with the prompt, and the model would learn what it can never be asked for.
        for message in self.messages:
            if not message.content.strip():
                raise ValueError(f"a message of the {message.role} is empty")
            if message.role == "assistant" and message.content != message.content.strip():
                raise ValueError("an answer begins or ends with white space")
        return self

    @property
    def text(self) -> str:
        """All contents, one after the other."""
        return "\n".join(message.content for message in self.messages)

    @property
    def content_sha256(self) -> str:
        """Of the contents without regard to case, white space and Unicode form."""
        return _fingerprint(message.content for message in self.messages)

    @property
    def prompt_sha256(self) -> str:
        """As `content_sha256`, of all but the last answer."""
        return _fingerprint(message.content for message in self.messages[:-1])


def read_rows(dataset: Path) -> tuple[Row, ...]:
    """Parse train.jsonl strictly, and give each row its licence.

    Raises DatasetRefused with the numbers of all lines that do not fit (the first ten of each kind
    are named), and when there is no such file or nothing in it.
    """
    path = dataset / ROWS_FILE
    if not path.is_file():
        raise DatasetRefused(dataset, [f"there is no {ROWS_FILE}"])
    card = card_licence(dataset)
    rows: list[Row] = []
    problems: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            problems.setdefault(_first_problem(error), []).append(str(number))
            continue
        rows.append(row if row.licence else row.model_copy(update={"licence": card}))
    if problems:
        raise DatasetRefused(path, [f"line {listed(n)}: {what}" for what, n in problems.items()])
    if not rows:
        raise DatasetRefused(path, ["it holds no row"])
    return tuple(rows)


def card_licence(dataset: Path) -> str:
    """`license:` of the front matter of the data set's README.md, or '' if it states none.

    Raises DatasetRefused when the front matter is there and is not readable.
    """
    path = dataset / CARD_FILE
    if not path.is_file():
        return ""
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return ""
    try:
        front: Any = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise DatasetRefused(path, [f"its front matter is not YAML ({error})"]) from error
    licence = front.get("license", "") if isinstance(front, dict) else ""
    return licence if isinstance(licence, str) else ""


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _fingerprint(contents: Any) -> str:
    normal = (unicodedata.normalize("NFC", " ".join(text.split())).casefold() for text in contents)
    return sha256_bytes("\x1e".join(normal).encode())


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
