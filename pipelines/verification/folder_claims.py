"""Licence claims of a bare folder: what its own papers say, where no registry has an origin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipelines.errors import UnusableSource
from pipelines.licence_facts import licence_facts
from pipelines.records import Finding, LicenceClaim
from pipelines.sources.claims import card_claims
from pipelines.verification.contents import Contents
from pipelines.verification.findings import quoted, refusal, warning

_LICENCE_NAME = re.compile(r"(un)?(licen[cs]e|copying)([._-].*)?", re.IGNORECASE)
_CARD = "readme.md"
MAX_PAPER_BYTES = 4 * 1024 * 1024
_GGUF_KEYS = ("general.license", "general.license.name", "general.license.link")
_BASE_KEYS = ("base_model_name_or_path", "_name_or_path")
# Names of published models that say which family of terms their weights carry.
_BASE_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"llama[-_ ]?2(?!\.\d)", re.IGNORECASE), "Llama 2"),
    (re.compile(r"llama[-_ ]?3\.1", re.IGNORECASE), "Llama 3.1"),
    (re.compile(r"llama[-_ ]?3\.2", re.IGNORECASE), "Llama 3.2"),
    (re.compile(r"llama[-_ ]?3\.3", re.IGNORECASE), "Llama 3.3"),
    (re.compile(r"llama[-_ ]?3(?!\.\d)", re.IGNORECASE), "Llama 3"),
    (re.compile(r"llama[-_ ]?4", re.IGNORECASE), "Llama 4"),
    (re.compile(r"code[-_ ]?llama", re.IGNORECASE), "Llama 2"),
    # Gemma 4 is reported to be under Apache-2.0.
    (re.compile(r"gemma(?!-?4(-|$))-?[123]?-\d", re.IGNORECASE), "Gemma terms (2025-03-24)"),
)


@dataclass
class FolderClaims:
    """Claims with the texts that they name, by sha256 of bytes, and what went wrong."""

    claims: list[LicenceClaim] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    bases: list[tuple[str, str]] = field(default_factory=list)  # (where, name) of base models


def read_claims(contents: Contents) -> FolderClaims:
    """Licence texts, the card's front matter and GGUF keys of a folder."""
    found = FolderClaims()
    digests = {entry.path: entry.sha256 for entry in contents.files}
    sizes = {entry.path: entry.size_bytes for entry in contents.files}
    for name in contents.names("text"):
        base = PurePosixPath(name).name
        if "/" in name or sizes[name] > MAX_PAPER_BYTES:
            continue
        if _LICENCE_NAME.fullmatch(base):
            found.claims.append(LicenceClaim(source=name, text_sha256=digests[name]))
            found.texts[digests[name]] = (contents.root / name).read_text(encoding="utf-8")
        elif base.lower() == _CARD:
            _read_card(found, name, (contents.root / name).read_bytes())
    for name, header in contents.ggufs.items():
        for key in _GGUF_KEYS:
            if isinstance(value := header.keys.get(key), str):
                found.claims.append(LicenceClaim(source=f"{name}:{key}", identifier=value))
    for name, document in contents.objects():
        for key in _BASE_KEYS:
            if isinstance(value := document.get(key), str) and "/" in value:
                found.bases.append((name, value))
    return found


def check_bases(found: FolderClaims, family: str) -> Iterator[Finding]:
    """A base model whose own terms are stricter than those that the folder claims."""
    known = licence_facts().rows
    for where, base in found.bases:
        implied = next((name for pattern, name in _BASE_NAMES if pattern.search(base)), None)
        if implied is not None and implied != family and implied in known:
            fact = f"it names the base {quoted(base)}, whose licence is {implied}, not {family}"
            remedy = "The strictest licence on the path holds: have the publisher correct the card."
            yield refusal("licence.base", where, fact, remedy)
        elif implied is None and where.lower() == _CARD:
            fact = f"the licence of the base {quoted(base)} was not looked at"
            yield warning("licence.base", where, fact, "Ingest the model to record its pedigree.")


def _read_card(found: FolderClaims, name: str, data: bytes) -> None:
    try:
        found.claims += card_claims(name, name, data)
        for base in _bases(data):
            found.bases.append((name, base))
    except UnusableSource as error:
        remedy = "Correct the front matter of the card."
        found.findings.append(refusal("licence.card", name, str(error), remedy))


def _bases(data: bytes) -> list[str]:
    """`base_model` of a card whose front matter is known to be YAML."""
    import yaml

    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    head, closed, _ = text.removeprefix("---\n").partition("\n---")
    fields: Any = yaml.safe_load(head) if closed and text.startswith("---\n") else None
    value = fields.get("base_model") if isinstance(fields, dict) else None
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]
