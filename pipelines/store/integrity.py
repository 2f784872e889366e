"""Re-hash what DVC hands out: a shared cache is trusted by DVC, so a stage must not trust it.

Records are compared with the address that dvc.lock (which git holds) gives them. DVC's address of
a file is the md5 of its bytes; of a folder, the md5 of the JSON list of its files' addresses.
Weights are compared by our own sha256 digest (`pipelines.digest.check_digest`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.canonical import READ_SIZE_BYTES
from pipelines.digest import list_files
from pipelines.errors import DigestMismatch
from pipelines.models_file import load_yaml


def dvc_address(path: Path) -> str:
    """DVC's address of a file or folder, computed by reading its bytes."""
    if path.is_file():
        return _md5(path)
    listing = [
        {"md5": _md5(file), "relpath": file.relative_to(path).as_posix()}
        for file in list_files(path)
    ]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def locked_stages(tree: Path) -> frozenset[str]:
    """Every stage instance that dvc.lock knows."""
    return frozenset(_locked(tree))


def locked_outputs(tree: Path) -> dict[str, str]:
    """Every output in dvc.lock: path to address."""
    return {
        out["path"]: out["md5"] for stage in _locked(tree).values() for out in stage.get("outs", [])
    }


def locked_among(tree: Path, targets: Sequence[str]) -> dict[str, int] | None:
    """Address and size in bytes of each locked output that `targets` name.

    A target is a stage instance or the path of an output; None when one is neither, or when an
    output is not addressed by md5.
    """
    found: dict[str, int] = {}
    stages = _locked(tree)
    outputs = {name: stage.get("outs", []) for name, stage in stages.items()}
    outputs |= {out["path"]: [out] for outs in list(outputs.values()) for out in outs}
    for target in targets:
        if target not in outputs:
            return None
        for out in outputs[target]:
            if out.get("hash") != "md5":
                return None
            found[out["md5"]] = out.get("size", 0)
    return found


def check_outputs(tree: Path, below: str) -> None:
    """Compare every locked output at or below the relative path `below` with its address.

    Raises DigestMismatch for the first whose bytes differ from what dvc.lock says.
    """
    for path, expected in locked_outputs(tree).items():
        inside = path == below or path.startswith(below.rstrip("/") + "/")
        if inside and (tree / path).exists():
            actual = dvc_address(tree / path)
            if actual != expected:
                raise DigestMismatch(tree / path, f"md5 {expected}", f"md5 {actual}")


def _locked(tree: Path) -> dict[str, Any]:
    lock = tree / "dvc.lock"
    if not lock.is_file():
        return {}
    content: dict[str, Any] = load_yaml(lock) or {}
    stages: dict[str, Any] = content.get("stages") or {}
    return stages


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(READ_SIZE_BYTES):
            digest.update(block)
    return digest.hexdigest()
