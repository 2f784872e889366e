"""How many items of a suite a model may have seen in training: shared sequences of words.

An item overlaps a training set when they share a sequence of `words` words, compared without case
and punctuation (Brown et al. 2020, arXiv:2005.14165, appendix C, with n = 13). What is looked at of
an item are the fields that its prompt shows. An item whose longest field is shorter than `words` is
looked for whole; below `SHORTEST` words, it overlaps only where a training text is nothing else, as
two or three words stand everywhere by chance. Paraphrases and translations are not found.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evals.suites import Row, load_task_file, scored_rows, suite_digest, validate_suite
from evals.training_sets import TrainingSet, check_training_sets, texts_within, training_rows
from pipelines.canonical import Frozen
from pipelines.digest import build_manifest, weight_digest

WORDS = 13
SHORTEST = 5
_WORD = re.compile(r"\w+")

Item = tuple[str, str]  # task, item id


class SeenSet(Frozen):
    """One training set as it was read."""

    name: str
    sha256: str = Field(description="weight digest of its folder")
    rows: int


class TaskOverlap(Frozen):
    """The items of one task that training data hold words of."""

    task: str
    items: int
    short_items: int = Field(description="shorter than `words`: looked for whole")
    overlapping: dict[str, float] = Field(
        description="item id to the share of its sequences that were found, over 0 to 1"
    )

    @property
    def share(self) -> float:
        """Overlapping items over all items."""
        return len(self.overlapping) / self.items


class ContaminationRecord(Frozen):
    """What training sets and a suite have in common; without training sets, nothing is known."""

    kind: Literal["contamination"] = "contamination"
    suite_sha256: str
    words: int
    training_sets: tuple[SeenSet, ...]
    tasks: tuple[TaskOverlap, ...]

    @property
    def share(self) -> float:
        """The largest share of overlapping items that any task has: an average could hide one."""
        return max(task.share for task in self.tasks)


def contamination(
    datasets: Sequence[TrainingSet], suite: Path, words: int = WORDS
) -> ContaminationRecord:
    """Look for the items of the suite in `suite` in every training set, row by row.

    Memory holds the suite's sequences and one row of training data. Raises what
    `check_training_sets` and `validate_suite` raise; UnusableEvidence for a line that is no JSON,
    and for a set without rows.
    """
    check_training_sets(datasets)
    index = _Index(words)
    counts: dict[str, tuple[int, int]] = {}
    for name, task in validate_suite(suite).tasks.items():
        template = load_task_file(suite, name, task).doc_to_text
        rows = scored_rows(suite, task)
        fields = _shown_fields(template, rows)
        short = sum(index.add((name, str(row["id"])), _texts(row, fields)) for row in rows)
        counts[name] = (len(rows), short)
    seen = []
    for dataset in datasets:
        rows_read = 0
        for row in training_rows(dataset):
            rows_read += 1
            for text in row:
                index.look(_words(text))
        digest = weight_digest(build_manifest(dataset.folder))
        seen.append(SeenSet(name=dataset.name, sha256=digest, rows=rows_read))
    found = index.shares()
    return ContaminationRecord(
        suite_sha256=suite_digest(suite),
        words=words,
        training_sets=tuple(seen),
        tasks=tuple(
            TaskOverlap(
                task=name,
                items=items,
                short_items=short,
                overlapping={item: share for (task, item), share in found.items() if task == name},
            )
            for name, (items, short) in counts.items()
        ),
    )


class _Index:
    """The sequences of a suite's items, and which of them were seen."""

    def __init__(self, words: int) -> None:
        self._words = words
        self._sequences: dict[bytes, bool] = {}  # digest to whether it was seen
        self._whole: dict[str, set[tuple[str, ...]]] = defaultdict(set)  # by first word
        self._seen_whole: set[tuple[str, ...]] = set()
        self._items: dict[Item, list[bytes] | tuple[str, ...]] = {}

    def add(self, item: Item, texts: Iterable[str]) -> bool:
        """Look for an item from now on; says whether it is too short for a sequence."""
        split = [_words(text) for text in texts]
        longest = max(split, key=len, default=[])
        if len(longest) < self._words:
            whole = tuple(longest)
            self._items[item] = whole
            if whole:
                self._whole[whole[0]].add(whole)
            return True
        keys = [key for text in split for key in self._keys(text)]
        self._items[item] = keys
        self._sequences.update(dict.fromkeys(keys, False))
        return False

    def look(self, words: Sequence[str]) -> None:
        """Mark what one training text holds."""
        if self._sequences:
            for key in self._keys(words):
                if key in self._sequences:
                    self._sequences[key] = True
        if self._whole:
            for start, word in enumerate(words):
                for whole in self._whole.get(word, ()):
                    stop = start + len(whole)
                    alone = len(whole) == len(words)
                    if (alone or len(whole) >= SHORTEST) and tuple(words[start:stop]) == whole:
                        self._seen_whole.add(whole)

    def shares(self) -> dict[Item, float]:
        """The items that were seen, with the share of their sequences, sorted."""
        found = {}
        for item, parts in sorted(self._items.items()):
            if isinstance(parts, tuple):
                share = float(parts in self._seen_whole)
            else:
                share = sum(self._sequences[key] for key in parts) / len(parts)
            if share:
                found[item] = round(share, 6)
        return found

    def _keys(self, words: Sequence[str]) -> Iterator[bytes]:
        for start in range(len(words) - self._words + 1):
            text = " ".join(words[start : start + self._words])
            yield hashlib.blake2b(text.encode(), digest_size=12).digest()


def _words(text: str) -> list[str]:
    """Words in lower case, without punctuation, in one Unicode form (NFKC)."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _shown_fields(template: str, rows: Sequence[Row]) -> list[str]:
    """The fields that a prompt shows; lm-eval takes a bare name as one, too."""
    from jinja2 import Environment, meta

    keys = list(rows[0]) if rows else []
    if template in keys:
        return [template]
    named = meta.find_undeclared_variables(Environment(autoescape=True).parse(template))
    return [key for key in keys if key in named] or [key for key in keys if key != "id"]


def _texts(row: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    return [text for field in fields for text in texts_within(row[field])]
