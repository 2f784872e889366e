"""Rows that combine the chunks of a document, planned in rounds behind all chunks."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from pipelines.batch.job import BatchJob
from pipelines.batch.prompt import PromptBuilder, names_in, reduce_prompt
from pipelines.batch.rows import REDUCED, PlannedRow
from pipelines.batch.tokens import ModelTokenizer, plain_json
from pipelines.errors import ConfigError

KEY = "chunking.reduce.template"
OWN_FIELDS = frozenset({"answers", "id", "chunks"})
_TABLE = (
    "(first INTEGER PRIMARY KEY, parts INTEGER, made INTEGER, failed INTEGER, key BLOB, row BLOB)"
)


class Combined(NamedTuple):
    """A planned row that combines others; `key` names the content of a document with copies."""

    row: PlannedRow
    key: bytes | None
    failed: bool  # it will not be asked


class Combining:
    """Documents of several chunks, kept on the disk until all chunks have their numbers.

    A round makes of every `at_once` rows of a document one row, until there is one row left, the
    final one. Of a document with a chunk that cannot be asked there is the final row only: an error
    row too, as no answer about the whole can come of it.
    """

    def __init__(self, job: BatchJob, tokenizer: ModelTokenizer, max_model_len: int) -> None:
        """Nothing is kept of jobs that do not combine."""
        self._reduce, self._answer_tokens = job.reduce, job.answer_tokens
        self._room = max_model_len - job.answer_tokens
        self._frame = 0
        if job.reduce is not None:
            prompt = reduce_prompt(job.prompt, job.reduce)
            said = [prompt.system or "", prompt.template]
            self._frame = sum(len(tokenizer.encode_text(text)) for text in said)
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("BEGIN")
        self._database.execute(f"CREATE TABLE waiting {_TABLE}")
        self.documents = 0
        self.tight = 0  # rows whose prompt does not fit if all answers are the longest

    def keep(self, rows: list[PlannedRow], key: bytes | None) -> None:
        """The numbered chunks of one document, if they are to be combined."""
        if self._reduce is None or len(rows) == 1:
            return
        self.documents += 1
        failed = any(row.error_class is not None for row in rows)
        whole = replace(
            rows[0], end=rows[-1].end, chunks=len(rows), error_class=None, error_message=None
        )
        self._database.execute(
            "INSERT INTO waiting VALUES (?, ?, ?, ?, ?, ?)",
            (rows[0].row, len(rows), 0, failed, key, pickle.dumps(whole)),
        )

    def round(self, number: int) -> Iterator[Combined]:
        """The rows that combine what there is, numbered from `number` on; none at the end."""
        self._database.execute(f"CREATE TABLE next {_TABLE}")
        waiting = self._database.execute("SELECT * FROM waiting ORDER BY first")
        for first, parts, made, failed, key, pickled in waiting:
            whole: PlannedRow = pickle.loads(pickled)  # our own, of this process
            groups = 1 if failed else self._groups(parts)
            for start, stop in _even(parts, groups):
                row = replace(
                    whole,
                    row=number,
                    chunk=REDUCED if groups == 1 else REDUCED - 1 - made,
                    first_part=first + start,
                    parts=stop - start,
                    prompt_tokens=0 if failed else self._most_tokens(stop - start),
                    is_part=groups > 1,
                )
                self.tight += not failed and row.prompt_tokens == self._room
                yield Combined(row, key, bool(failed))
                number, made = number + 1, made + 1
            if groups > 1:
                self._database.execute(
                    "INSERT INTO next VALUES (?, ?, ?, ?, ?, ?)",
                    (number - groups, groups, made, False, key, pickled),
                )
        self._database.execute("DROP TABLE waiting")
        self._database.execute("ALTER TABLE next RENAME TO waiting")

    def close(self) -> None:
        """Drop the file."""
        self._database.close()

    def _groups(self, parts: int) -> int:
        at_once = self._reduce.at_once if self._reduce else None
        return -(-parts // (at_once or parts))

    def _most_tokens(self, parts: int) -> int:
        """Roughly, if every answer is the longest; at the most what fits, more is not read."""
        return min(self._frame + parts * self._answer_tokens, self._room)


def check_reduce(job: BatchJob, tokenizer: ModelTokenizer) -> frozenset[str]:
    """The columns of a document that the combining prompt names.

    Raises ConfigError for one that is no template, that does not name the answers, or that names
    what there is not, and for `answer_once` with a prompt that names the id.
    """
    if job.reduce is None:
        return frozenset()
    reduce_builder(job, tokenizer)
    named = names_in(job.reduce.template)
    if "answers" not in named:
        raise ConfigError(KEY, "it does not name answers", "Say where they stand: {{ answers }}.")
    if foreign := sorted(named & {"text", "chunk"}):
        fact = f"it names {foreign[0]}, which belongs to one chunk"
        raise ConfigError(KEY, fact, "It may use answers, id, chunks and the other columns.")
    if job.duplicates == "answer_once" and "id" in named:
        fact = "it names the document's id, and duplicates are answered once"
        raise ConfigError(KEY, fact, "Leave id out of it, or set duplicates: answer_each.")
    return frozenset(named - OWN_FIELDS)


def reduce_builder(job: BatchJob, tokenizer: ModelTokenizer) -> PromptBuilder:
    """What renders the combining prompt of a job that has one; raises ConfigError."""
    assert job.reduce is not None
    prompt = reduce_prompt(job.prompt, job.reduce)
    return PromptBuilder(prompt, tokenizer, KEY, {"tojson": plain_json})


def _even(parts: int, groups: int) -> Iterator[tuple[int, int]]:
    """Begin and end of groups of nearly the same size, the larger ones first."""
    size, larger = divmod(parts, groups)
    start = 0
    for group in range(groups):
        stop = start + size + (group < larger)
        yield start, stop
        start = stop
