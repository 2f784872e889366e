"""NOTICE: what the licences on a model's path ask of whoever uses or passes it on."""

from __future__ import annotations

from pipelines.records import LicenceDecision, VerificationRecord


def notice_text(record: VerificationRecord, licence_files: tuple[str, ...] = ()) -> str:
    """A plain text to ship with the weights: licence, obligations, texts that must come along."""
    licence = record.licence
    lines = [
        f"NOTICE for {record.name}",
        "",
        f"Weights: sha256 {record.weight_digest or 'none: the folder has no digest'}",
        f"Licence: {_licence_line(licence)}",
        f"Judged for this use: {licence.use}",
        f"Use allowed: {'yes' if licence.allowed else 'no'}",
        "",
        "Obligations:",
        *(f"- {line}" for line in licence.obligations or ("none that are known",)),
        "",
        "Licence texts that must accompany these weights:",
        *(f"- {name}" for name in licence_files or ("none were found with the weights",)),
        "",
        f"Source of the licence facts: {licence.source or 'none'}",
        "This summary is not legal advice; the texts decide.",
    ]
    return "\n".join(lines) + "\n"


def _licence_line(licence: LicenceDecision) -> str:
    return f"{licence.family} ({licence.spdx})" if licence.spdx else licence.family
