"""Small wheels, built here, that the real pip downloads from a folder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

LICENCE_TEXT = b"Apache License, Version 2.0 ..."


def write_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, bytes], licence: str = "Apache-2.0"
) -> Path:
    """Write NAME-VERSION-py3-none-any.whl with `files` beside its metadata, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: {licence}\n"
    members = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/licenses/LICENSE": LICENCE_TEXT,
        f"{info}/RECORD": b"",
    }
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in members.items():
            archive.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED)
    return wheel


def use_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pip see the wheels of this folder and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
