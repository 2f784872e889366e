"""Make a tampered repository, verify it, and say whether the right file was named."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.canonical import canonical_json
from pipelines.digest import build_manifest
from pipelines.models_file import DeclaredUse
from pipelines.verification.findings import printable
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder
from tests.corpus import (
    tamper_adapter,
    tamper_config,
    tamper_files,
    tamper_formats,
    tamper_further,
    tamper_gguf,
    tamper_hooks,
    tamper_index,
    tamper_integrity,
    tamper_safetensors,
    tamper_templates,
    tamper_tokenizer,
    tamper_weights,
)
from tests.corpus.bases import BASES
from tests.corpus.tampering import Tampering

TAMPERINGS: tuple[Tampering, ...] = (
    *tamper_integrity.TAMPERINGS,
    *tamper_formats.TAMPERINGS,
    *tamper_files.TAMPERINGS,
    *tamper_safetensors.TAMPERINGS,
    *tamper_gguf.TAMPERINGS,
    *tamper_index.TAMPERINGS,
    *tamper_config.TAMPERINGS,
    *tamper_adapter.TAMPERINGS,
    *tamper_hooks.TAMPERINGS,
    *tamper_templates.TAMPERINGS,
    *tamper_tokenizer.TAMPERINGS,
    *tamper_weights.TAMPERINGS,
    *tamper_further.TAMPERINGS,
)


@dataclass(frozen=True)
class Judged:
    """Whether one tampered repository was refused, and whether its file was named."""

    tampering: Tampering
    refused: bool
    named: bool
    findings: tuple[str, ...]


@dataclass
class Tally:
    """Counts of one family."""

    tampered: int = 0
    refused: int = 0
    named: int = 0


def judge_all(tamperings: Iterable[Tampering], work: Path, seed: int = 1) -> Iterator[Judged]:
    """Judge each tampering on a fresh copy of its base; `work` is a folder to do it in."""
    honest = work / "honest"
    for name, make in BASES.items():
        if not (honest / name).exists():
            make(honest / name)
    for tampering in tamperings:
        place = work / "tampered"
        place.mkdir()
        yield judge_one(tampering, honest / tampering.base, place, seed)
        shutil.rmtree(place)


def judge_one(tampering: Tampering, honest: Path, place: Path, seed: int = 1) -> Judged:
    """Copy the honest repository to `place`/model, tamper, verify."""
    folder = place / "model"
    shutil.copytree(honest, folder)
    manifest = write_manifest(honest, place / "manifest", tampering.pinned)
    tampering.apply(folder, random.Random(f"{seed}:{tampering.title}"))
    record = verify_folder(folder, DeclaredUse(), VerificationPolicy(), manifest)
    refused = [finding for finding in record.findings if finding.severity == "refusal"]
    named = printable(tampering.file) in {finding.file for finding in refused}
    shown = tuple(f"{f.severity} {f.rule}@{f.file}: {f.fact}" for f in record.findings)
    return Judged(tampering, not record.passed, named and not record.passed, shown)


def write_manifest(folder: Path, path: Path, form: str) -> Path | None:
    """Pin a folder as JSON or as sha256sum lines; None when no manifest is wanted."""
    if not form:
        return None
    entries = build_manifest(folder)
    lines = "".join(f"{entry.sha256}  {entry.path}\n" for entry in entries)
    files = [entry.model_dump() for entry in entries]
    path.write_bytes(lines.encode() if form == "sums" else canonical_json({"files": files}))
    return path


def tally(judged: Iterable[Judged]) -> Mapping[str, Tally]:
    """Counts by family, in the order in which families came."""
    counts: dict[str, Tally] = {}
    for one in judged:
        count = counts.setdefault(one.tampering.family, Tally())
        count.tampered += 1
        count.refused += one.refused
        count.named += one.named
    return counts
