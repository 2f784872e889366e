"""NOTICE: what the licences on a model's path ask of whoever uses or passes it on."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.records import LicenceDecision, VerificationRecord
from pipelines.verification.findings import printable


def notice_text(record: VerificationRecord, licence_files: tuple[str, ...] = ()) -> str:
    """A plain text to ship with the weights: licence, obligations, texts that must come along."""
    licence = record.licence
    lines = [
        f"NOTICE for {record.name}",
        "",
        f"Weights: sha256 {record.weight_digest or 'none: the folder has no digest'}",
        f"Licence: {licence_line(licence)}",
        f"Judged for this use: {licence.use}",
        f"Use allowed: {_allowed(record)}",
        "",
        "Licences on the way to these weights:",
        *(_steps(licence) if licence.path else ["- none was established"]),
        "",
        "Obligations:",
        *(f"- {line}" for line in licence.obligations or ("none that are known",)),
        "",
        "Licence texts that must accompany these weights:",
        *(f"- {printable(n)}" for n in licence_files or ("none were found with the weights",)),
        "",
        f"Source of the licence facts: {licence.source or 'none'}",
        "This summary is not legal advice; the texts decide.",
    ]
    return "\n".join(lines) + "\n"


def _allowed(record: VerificationRecord) -> str:
    """The decision, and who answers for it where it rests on a waiver."""
    waivers = [
        f"{finding.rule} waived by {finding.waiver.approver} until {finding.waiver.expires}"
        for finding in record.findings
        if finding.waiver is not None and finding.rule.startswith("licence.")
    ]
    if record.licence.allowed:
        return "yes"
    if waivers and record.passed:
        return f"by waiver only ({'; '.join(waivers)})"
    return "no"


def _steps(licence: LicenceDecision) -> Iterator[str]:
    for step in licence.path:
        families = " and ".join(step.families) or "not established"
        yield f"- {printable(step.subject) or 'these weights'}: {families}"


def licence_line(licence: LicenceDecision) -> str:
    """The strictest licence, with its SPDX id where that says more."""
    named = licence.spdx and licence.spdx != licence.family
    return f"{licence.family} ({licence.spdx})" if named else licence.family
