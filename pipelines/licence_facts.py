"""The licence families that Weighbridge knows, as data with sources (licences.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines.canonical import Frozen

_FACTS = Path(__file__).with_name("licences.json")
_OTHER = "other"
_NAME_HINT = "license_name:"
_LLAMA_3_1 = "Llama 3.1"
_SHARED = ("attribution", "naming")


class LicenceRow(Frozen):
    """One family. A key that the data does not hold is not established: see `establishes`."""

    family: str
    hf: str = Field(description="identifiers of the Hugging Face Hub, separated by '|'")
    spdx: str = ""
    read: bool | str = Field(description="true: the text was read; else it may block, not allow")
    src: str
    checked: str = Field(default="", description="source and date of what was added to `src`")
    commercial: bool | str | None = None
    mau_cap: int | None = None
    mau_basis: str = ""
    revenue_cap: int | None = None
    revenue_cap_usd_year: int | None = None
    territory_excluded: tuple[str, ...] | None = None
    eu_exclusion: str = ""
    text_models: str = Field(default="", description="which of its models are not multimodal")
    outputs: Literal["free", "conditions", "forbidden"] | None = None
    output_training_limit: str | None = None
    attribution: str = ""
    naming: str | None = None
    field_of_use: bool | str = False
    use: str = ""
    termination: str = ""
    addendum: str = ""
    patent_retaliation: bool = False
    covers_outputs: bool = False
    royalty: bool = False
    names: tuple[str, ...] = ()
    unread_names: tuple[str, ...] = Field(default=(), description="of versions that nobody read")
    generic_names: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    text_sha256: tuple[str, ...] = ()

    def establishes(self, *keys: str) -> bool:
        """Whether the data holds one of these keys, null included."""
        return any(key in self.model_fields_set for key in keys)

    @property
    def source(self) -> str:
        """Where the facts were read, with dates."""
        return f"{self.src}; {self.checked}" if self.checked else self.src


@dataclass(frozen=True)
class LicenceFacts:
    """Rows by family, and the ways that lead to a family; all names are lower case."""

    rows: dict[str, LicenceRow]
    by_name: dict[str, str]
    by_generic_name: dict[str, frozenset[str]]
    by_license_name: dict[str, str]
    by_text: dict[str, str]
    by_title: dict[str, str]


@cache
def licence_facts() -> LicenceFacts:
    """Load licences.json."""
    document: dict[str, Any] = json.loads(_FACTS.read_bytes())
    rows = [LicenceRow.model_validate(row) for row in document["rows"]]
    names: dict[str, str] = {}
    hints: dict[str, str] = {}
    for row in rows:
        first, _, rest = row.hf.partition(" + ")
        if first == _OTHER:
            if rest.startswith(_NAME_HINT):
                hints[rest.removeprefix(_NAME_HINT).strip().lower()] = row.family
        else:
            names.update({name.strip().lower(): row.family for name in row.hf.split("|")})
        names.update({name.lower(): row.family for name in (row.spdx, *row.names) if name})
        for name in row.unread_names:
            names.pop(name, None)
    generic: dict[str, frozenset[str]] = {}
    for row in rows:
        for name in row.generic_names:
            generic[name] = generic.get(name, frozenset()) | {row.family}
    by_family = {row.family: row for row in rows}
    return LicenceFacts(
        rows={row.family: _spelled_out(row, by_family) for row in rows},
        by_name=names,
        by_generic_name=generic,
        by_license_name=hints,
        by_text={digest: row.family for row in rows for digest in row.text_sha256},
        by_title={title: row.family for row in rows for title in row.titles},
    )


def _spelled_out(row: LicenceRow, rows: dict[str, LicenceRow]) -> LicenceRow:
    """A row that says 'as 3.1' with what the row of Llama 3.1 says."""
    other = rows[_LLAMA_3_1]
    same = {key: getattr(other, key) for key in _SHARED if getattr(row, key) == "as 3.1"}
    return row.model_copy(update=same)
