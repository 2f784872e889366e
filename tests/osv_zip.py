"""Small snapshots in the layout of the OSV project: one zip, one JSON an advisory."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

NEWEST = "2026-11-20T10:00:00Z"


def advisory(
    name: str,
    package: str = "demo",
    *,
    versions: tuple[str, ...] = (),
    events: tuple[dict[str, str], ...] = (),
    **more: Any,
) -> dict[str, Any]:
    """An advisory about one package of PyPI."""
    affected: dict[str, Any] = {"package": {"ecosystem": "PyPI", "name": package}}
    if versions:
        affected["versions"] = list(versions)
    if events:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": list(events)}]
    return {"id": name, "modified": NEWEST, "affected": [affected], **more}


def write_zip(path: Path, *advisories: dict[str, Any]) -> Path:
    """A snapshot of these advisories."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in advisories:
            archive.writestr(f"{one['id']}.json", json.dumps(one))
    return path
