"""Whatever stands in a repository's JSON files, verification ends with a record."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.models_file import DeclaredUse
from pipelines.verification import architecture
from pipelines.verification.derived import Difference
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder
from tests.corpus.honest import HONEST

ODD: tuple[Any, ...] = (
    *(None, [], {}, 0, -1, True, "", float("inf"), "x", [None], [[]], {"a": None}, 10**30, 1.5),
    *(["a", 1], {"": []}),
)
BASES = ("plain", "shards", "adapter-plain", "gptq", "templates", "split-vocabulary")


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    members: Any = ()
    if isinstance(document, dict):
        members = document.items()
    elif isinstance(document, list):
        members = enumerate(document[:5])
    for key, value in members:
        yield (*path, key)
        yield from places(value, (*path, key))


def change_one(folder: Path, draw: random.Random) -> None:
    path = draw.choice(sorted(folder.rglob("*.json")))
    document = json.loads(path.read_text())
    *way, last = draw.choice(list(places(document)))
    here = document
    for key in way:
        here = here[key]
    here[last] = draw.choice(ODD)
    path.write_text(json.dumps(document))


def fuzz(work: Path, rounds: int, seed: int) -> None:
    draw = random.Random(seed)
    for name in BASES:
        HONEST[name](work / "honest" / name)
    for _ in range(rounds):
        shutil.copytree(work / "honest" / draw.choice(BASES), work / "changed")
        change_one(work / "changed", draw)
        assert verify_folder(work / "changed", DeclaredUse(), VerificationPolicy()).findings
        shutil.rmtree(work / "changed")


@pytest.fixture(autouse=True)
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process costs seconds a round, and cannot crash this one."""
    monkeypatch.setattr(architecture, "derive", lambda *_: Difference(unknown="not asked"))


def test_odd_values_end_in_a_record(tmp_path: Path) -> None:
    fuzz(tmp_path, 200, 1)


@pytest.mark.long
def test_many_odd_values_end_in_a_record(tmp_path: Path) -> None:
    fuzz(tmp_path, 10_000, 2)
