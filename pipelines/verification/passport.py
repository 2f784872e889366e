"""A model's passport: the verdict written down for programs, for people and for other tools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.canonical import sha256_bytes, sha256_file, write_record
from pipelines.notice import notice_text
from pipelines.records import ManifestRecord, TrainingRecord, VerificationRecord
from pipelines.verification.authenticity import SIGNATURE_NAMES
from pipelines.verification.bom import Paper, Subject, bom_bytes
from pipelines.verification.contents import Contents
from pipelines.verification.model_facts import ModelFacts
from pipelines.verification.report import render_report

RECORD = "verification.json"
REPORT = "report.md"
NOTICE = "NOTICE"
BOM = "bom.cdx.json"


@dataclass(frozen=True)
class Judged:
    """A record with what was read on the way, for whoever writes it down."""

    record: VerificationRecord
    contents: Contents
    facts: ModelFacts
    licence_files: tuple[str, ...] = ()
    papers: tuple[Paper, ...] = ()
    manifest: ManifestRecord | None = None
    training: TrainingRecord | None = None
    stated_bases: tuple[str, ...] = ()


def write_verification(judged: Judged, out: Path) -> None:
    """Write the record, the report, the BOM and the notice into a new folder `out`."""
    out.mkdir()
    record, files = judged.record, judged.contents.files
    notice = notice_text(record, judged.licence_files).encode()
    report = render_report(record, files).encode()
    papers = (
        Paper("attestation", RECORD, write_record(out / RECORD, record), "the verdict"),
        Paper("evidence", REPORT, sha256_bytes(report), "the verdict, for people"),
        Paper("license", NOTICE, sha256_bytes(notice), "obligations of the licences"),
        *judged.papers,
    )
    subject = Subject(
        record=record,
        files=files,
        facts=judged.facts,
        papers=papers,
        manifest=judged.manifest,
        training=judged.training,
        stated_bases=judged.stated_bases,
    )
    (out / REPORT).write_bytes(report)
    (out / NOTICE).write_bytes(notice)
    (out / BOM).write_bytes(bom_bytes(subject))


def origin_papers(origin: Path) -> Iterable[Paper]:
    """What lies in the origin folder, which is beside a model's verification in a registry."""
    kinds = {
        "manifest.json": "evidence",
        "training.json": "formulation",
        "model_card.md": "model-card",
        **dict.fromkeys(SIGNATURE_NAMES, "digital-signature"),
    }
    for name, kind in kinds.items():
        if (origin / name).is_file():
            yield Paper(kind, f"../origin/{name}", sha256_file(origin / name))
