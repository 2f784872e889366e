"""Licence notices and their labels, from ScanCode's licence data (package licensedcode-data).

The package holds `licensedcode/data/licenses/KEY.LICENSE`, which give each licence's category, and
`licensedcode/data/rules/*.RULE`, texts that were seen in real software, each with the expression of
licences that it stands for. Both have front matter between lines of three dashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.canonical import Frozen
from pipelines.errors import UnusableSource

LABELS = ("permissive", "copyleft", "restricted")
CHARACTERS = range(40, 401)  # shorter says too little, longer costs training time
_LABEL_OF_CATEGORY = {
    "Permissive": "permissive",
    "Public Domain": "permissive",
    "Copyleft": "copyleft",
    "Copyleft Limited": "copyleft",
    "Proprietary Free": "restricted",
    "Commercial": "restricted",
    "Free Restricted": "restricted",
    "Source-available": "restricted",
}


class Notice(Frozen):
    """One notice: the file it comes from, the key of its licence, its label and its text."""

    id: str
    licence: str
    label: str
    text: str


def normalise(text: str) -> str:
    """The text with each run of white space made one space."""
    return " ".join(text.split())


def read_notices(package: Path) -> list[Notice]:
    """English notices that stand for one licence with a label, in order of their file names.

    Of texts that are the same letters, the first counts. Raises UnusableSource when `package` is
    not the unpacked package.
    """
    data = package / "licensedcode" / "data"
    if not (data / "rules").is_dir() or not (data / "licenses").is_dir():
        raise UnusableSource(
            "licensedcode-data",
            "has no licensedcode/data with rules and licenses",
            "Use the pinned version of the package.",
        )
    categories = {
        front["key"]: front["category"]
        for _, front, _ in _documents(data / "licenses", "*.LICENSE")
        if "key" in front and "category" in front
    }
    found: list[Notice] = []
    seen: set[str] = set()
    for name, front, body in _documents(data / "rules", "*.RULE"):
        licence = front.get("license_expression", "")
        label = _LABEL_OF_CATEGORY.get(categories.get(licence, ""))
        # {{ }} mark the words that ScanCode requires; they are not part of the notice.
        text = normalise(body.replace("{{", "").replace("}}", ""))
        letters = re.sub(r"[^a-z]+", " ", text.lower())
        if label is None or not _is_notice(front) or len(text) not in CHARACTERS or letters in seen:
            continue
        seen.add(letters)
        found.append(Notice(id=name, licence=licence, label=label, text=text))
    return found


def _is_notice(front: dict[str, str]) -> bool:
    return (
        front.get("is_license_notice") == "yes"
        and front.get("is_deprecated") != "yes"
        and front.get("language", "en") == "en"
    )


def _documents(folder: Path, pattern: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Name, front matter and text of each file; of the front matter only plain `key: value`."""
    for path in sorted(folder.glob(pattern)):
        parts = path.read_text(encoding="utf-8").split("---\n", 2)
        if len(parts) == 3 and not parts[0].strip():
            yield path.name, dict(re.findall(r"^(\w+): *(.*?) *$", parts[1], re.M)), parts[2]
