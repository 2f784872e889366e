"""Licence claims: every place of a source that states a licence, kept as it was found.

A claim with a text has `source` as the text's path under `licences/` of the origin folder.
"""

from __future__ import annotations

from email.parser import HeaderParser
from pathlib import Path
from typing import IO, Any

import yaml

from pipelines.canonical import sha256_bytes
from pipelines.errors import UnusableSource
from pipelines.records import LicenceClaim
from pipelines.sources.selection import LICENCE_NAME

MAX_TEXT_BYTES = 4 * 1024 * 1024  # licence texts and cards are read into memory
LICENCES_FOLDER = "licences"
PAPERS_FOLDER = "publisher"

_CARD_KEYS = ("license", "license_name", "license_link")
_NOT_LICENCES = ("notice", "use")  # texts that belong to a licence without being one


def keep_text(reference: str, path: str, stream: IO[bytes], origin: Path) -> list[LicenceClaim]:
    """Copy a licence text or a publisher's paper to the origin folder and read its claims."""
    data = stream.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise UnusableSource(
            reference, f"{path} is longer than {MAX_TEXT_BYTES} bytes", "Take another source."
        )
    name = path.rsplit("/", 1)[-1].lower()
    is_licence = LICENCE_NAME.fullmatch(name) is not None
    kept = origin / (LICENCES_FOLDER if is_licence else PAPERS_FOLDER) / path
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(data)
    if is_licence:
        if name.startswith(_NOT_LICENCES):
            return []
        return [LicenceClaim(source=path, text_sha256=sha256_bytes(data))]
    if name == "readme.md":
        return card_claims(reference, path, data)
    if name == "metadata":
        return metadata_claims(path, data)
    return []


def card_claims(reference: str, path: str, data: bytes) -> list[LicenceClaim]:
    """Claims in the YAML front matter of a model card; no front matter, no claims."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return []
    head, closed, _ = text.removeprefix("---\n").partition("\n---")
    try:
        fields = yaml.safe_load(head) if closed else None
    except yaml.YAMLError as error:
        problem = str(error).replace("\n", " ")
        raise UnusableSource(
            reference,
            f"the front matter of {path} is not YAML ({problem})",
            "A licence stated there cannot be read: ask the publisher to correct it.",
        ) from error
    found = fields if isinstance(fields, dict) else {}
    stated = [(key, item) for key in _CARD_KEYS for item in _as_list(found.get(key))]
    return [LicenceClaim(source=f"{path}:{key}", identifier=str(item)) for key, item in stated]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def metadata_claims(path: str, data: bytes) -> list[LicenceClaim]:
    """Claims in a Python package's METADATA: licence fields and licence classifiers."""
    message = HeaderParser().parsestr(data.decode("utf-8", errors="replace"))
    claims = [
        LicenceClaim(source=f"{path}:{field}", identifier=value.strip().splitlines()[0])
        for field in ("License-Expression", "License")
        for value in message.get_all(field, [])
        if value.strip()
    ]
    claims += [
        LicenceClaim(source=f"{path}:Classifier", identifier=value.strip())
        for value in message.get_all("Classifier", [])
        if value.strip().startswith("License ::")
    ]
    return claims
