"""Checkpoints that a killed training resumes from, sealed with their hashes.

A checkpoint holds pickles (the random state), and a kill while one is written leaves half of it.
So a training resumes only from a checkpoint that was sealed after it was whole and still hashes to
its seal; the folder is readable by its owner alone. What is not sealed is removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.canonical import Frozen, write_record
from pipelines.digest import FileEntry, build_manifest
from pipelines.errors import ConfigError
from pipelines.records import read_record

PREFIX = "checkpoint-"  # transformers' name for them, followed by the step


class Seal(Frozen):
    """The files of one complete checkpoint."""

    step: int
    files: tuple[FileEntry, ...]


def checkpoints_folder(work: Path) -> Path:
    """Where the trainer writes checkpoints."""
    return work / "checkpoints"


def seal(work: Path, step: int) -> None:
    """State that the checkpoint of this step is whole; call it when the trainer has saved it."""
    files = build_manifest(checkpoints_folder(work) / f"{PREFIX}{step}")
    write_record(_seal_path(work, step), Seal(step=step, files=files))


def latest_sealed(work: Path) -> Path | None:
    """The newest checkpoint that is as it was sealed, or None; all newer ones are removed."""
    folder = checkpoints_folder(work)
    found = sorted(
        (int(path.name.removeprefix(PREFIX)), path)
        for path in folder.glob(f"{PREFIX}*")
        if path.name.removeprefix(PREFIX).isdecimal()
    )
    for step, path in reversed(found):
        if _is_as_sealed(work, step, path):
            return path
        shutil.rmtree(path)
    return None


def _is_as_sealed(work: Path, step: int, path: Path) -> bool:
    seal_path = _seal_path(work, step)
    if not seal_path.is_file():
        return False
    try:
        stated = read_record(seal_path, Seal)
    except ConfigError:
        return False
    return stated.step == step and build_manifest(path) == stated.files


def _seal_path(work: Path, step: int) -> Path:
    return work / "seals" / f"{step}.json"
