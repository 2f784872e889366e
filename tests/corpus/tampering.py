"""One way to tamper with an honest repository, and the file that a refusal must name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Apply = Callable[[Path, random.Random], None]


@dataclass(frozen=True)
class Tampering:
    """`apply` changes a copy of the honest repository `base` in place.

    `pinned`: '' for no manifest, or 'json' or 'sums' for one of that form made before the change.
    """

    family: str
    name: str
    file: str
    apply: Apply
    base: str = "single"
    pinned: str = ""

    @property
    def title(self) -> str:
        """Unique within the corpus."""
        return f"{self.family}/{self.name}"


def write(name: str, content: bytes | str) -> Apply:
    """Put one more file into the repository, or replace one."""
    data = content.encode() if isinstance(content, str) else content

    def apply(folder: Path, _: random.Random) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return apply


def edit(name: str, change: Callable[[Any], Any]) -> Apply:
    """Change a JSON file in place; `change` alters what it is given."""

    def apply(folder: Path, _: random.Random) -> None:
        path = folder / name
        document = json.loads(path.read_text(encoding="utf-8"))
        change(document)
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")

    return apply


def add(name: str, **members: Any) -> Apply:
    """Set members of a JSON object, making the file where there is none."""

    def apply(folder: Path, _: random.Random) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        document.update(members)
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")

    return apply
