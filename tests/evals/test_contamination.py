"""Items that stand in training data are found, and those that do not are not."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from evals.contamination import ContaminationRecord, contamination
from evals.suites import suite_digest
from evals.training_sets import TrainingSet
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import DigestMismatch, UnusableEvidence, WrongKindOfPath
from tests.evals.conftest import SMOKE

LONG = (
    "The carrier shall not be liable for loss or damage that arises from fire, unless it was "
    "caused by the actual fault of the carrier, or by perils of the sea."
)
SHORT = "Which planet is closest to the sun?"
ONE_WORD = "Lighthouse"


def suite_of(folder: Path, questions: Sequence[str]) -> Path:
    """The smoke suite with these questions as its only task."""
    suite = Path(shutil.copytree(SMOKE, folder / "suite"))
    rows = [
        {"id": f"q{n}", "topic": "time", "question": text, "choices": ["a", "b", "c"], "answer": 0}
        for n, text in enumerate(questions)
    ]
    (suite / "everyday.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (suite / "suite.yaml").read_text().partition("  repeat:")[0]
    (suite / "suite.yaml").write_text(text.replace("min_items: 14", "min_items: 2"))
    return suite


def training(folder: Path, texts: Sequence[str], name: str = "notes") -> TrainingSet:
    place = folder / "datasets" / name
    place.mkdir(parents=True)
    rows = [{"id": f"r{n}", "messages": [{"content": text}]} for n, text in enumerate(texts)]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainingSet(name=name, folder=place)


def found(folder: Path, questions: Sequence[str], texts: Sequence[str]) -> ContaminationRecord:
    return contamination([training(folder, texts)], suite_of(folder, questions))


def overlapping(record: ContaminationRecord) -> dict[str, float]:
    return record.tasks[0].overlapping


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        f"Summarise this clause: {LONG} Answer briefly.",
        LONG.upper().replace(",", " ;").replace("fire", "fire —"),
        " ".join(LONG.split()[2:16]),
    ],
)
def test_thirteen_words_in_a_row_are_found(tmp_path: Path, text: str) -> None:
    record = found(tmp_path, [LONG, "Something else that stands nowhere in it?"], ["x", text])
    assert list(overlapping(record)) == ["q0"]
    assert record.share == 0.5
    assert record.training_sets[0].rows == 2


@pytest.mark.parametrize(
    "text", [" ".join(LONG.split()[2:14]), " ".join(reversed(LONG.split())), "", "unrelated"]
)
def test_twelve_words_or_another_order_are_not_found(tmp_path: Path, text: str) -> None:
    assert overlapping(found(tmp_path, [LONG, "What else?"], [text])) == {}


def test_the_share_of_an_items_sequences_is_stated(tmp_path: Path) -> None:
    words = LONG.split()
    half = " ".join(words[: 13 + (len(words) - 13) // 2])
    share = overlapping(found(tmp_path, [LONG, "What else?"], [half]))["q0"]
    assert 0.3 < share < 0.7
    whole = contamination([training(tmp_path, [LONG], "whole")], tmp_path / "suite")
    assert overlapping(whole) == {"q0": 1.0}


def test_a_short_item_is_looked_for_whole(tmp_path: Path) -> None:
    record = found(tmp_path, [SHORT, LONG], [f"Quiz. {SHORT.lower()} Mercury."])
    assert overlapping(record) == {"q0": 1.0}
    assert record.tasks[0].short_items == 1


def test_a_few_words_overlap_only_with_a_text_that_is_nothing_else(tmp_path: Path) -> None:
    assert not overlapping(found(tmp_path, [ONE_WORD, LONG], ["The lighthouse of Pharos."]))
    alone = contamination([training(tmp_path, ["lighthouse!"], "alone")], tmp_path / "suite")
    assert overlapping(alone) == {"q0": 1.0}


def test_fewer_words_find_more(tmp_path: Path) -> None:
    text = " ".join(LONG.split()[2:10])
    sets = [training(tmp_path, [text])]
    suite = suite_of(tmp_path, [LONG, "What else?"])
    assert not overlapping(contamination(sets, suite))
    assert list(overlapping(contamination(sets, suite, words=8))) == ["q0"]


def test_choices_and_labels_that_the_prompt_does_not_show_do_not_count(tmp_path: Path) -> None:
    assert not overlapping(found(tmp_path, [LONG, SHORT], ["time"]))  # the value of `topic`


def test_without_training_sets_nothing_is_known(tmp_path: Path) -> None:
    record = contamination([], suite_of(tmp_path, [LONG, SHORT]))
    assert record.training_sets == ()
    assert record.suite_sha256 == suite_digest(tmp_path / "suite")


def test_all_sets_are_read_and_named_by_digest(tmp_path: Path) -> None:
    sets = [training(tmp_path, ["x"], "a"), training(tmp_path, [LONG], "b")]
    record = contamination(sets, suite_of(tmp_path, [LONG, SHORT]))
    assert list(overlapping(record)) == ["q0"]
    assert [seen.sha256 for seen in record.training_sets] == [
        weight_digest(build_manifest(one.folder)) for one in sets
    ]


def test_other_data_than_was_trained_on_are_refused(tmp_path: Path) -> None:
    changed = training(tmp_path, ["x"]).model_copy(update={"sha256": "f" * 64})
    with pytest.raises(DigestMismatch):
        contamination([changed], suite_of(tmp_path, [LONG, SHORT]))


def test_data_that_are_not_there_or_hold_nothing_are_refused(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, [LONG, SHORT])
    absent = TrainingSet(name="absent", folder=tmp_path / "absent")
    with pytest.raises(WrongKindOfPath):
        contamination([absent], suite)
    with pytest.raises(UnusableEvidence, match="no rows"):
        contamination([training(tmp_path, [], "empty")], suite)
    broken = training(tmp_path, ["x"], "broken")
    (broken.folder / "train.jsonl").write_text('{"id": "x"}\n{')
    with pytest.raises(UnusableEvidence, match="line 2"):
        contamination([broken], suite)


def test_memory_does_not_grow_with_the_training_data(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, [LONG, SHORT])
    peaks = []
    for count in (200, 4000):
        rows = training(tmp_path, [f"{n} {LONG[40:]} {n}" for n in range(count)], f"d{count}")
        tracemalloc.start()
        contamination([rows], suite)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
