"""report.md: the verdict for a reader who is a lawyer, and for one who is an engineer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.digest import FileEntry
from pipelines.records import Finding, VerificationRecord

_HEADINGS = {
    "refusal": "What keeps it out",
    "warning": "What someone should look at",
    "info": "What else was noted",
}
MAX_FILES = 200


def render_report(record: VerificationRecord, files: Sequence[FileEntry]) -> str:
    """The whole report as Markdown; the same record and files give the same text."""
    parts = [
        f"# Verification of {_safe(record.name)}: {'passed' if record.passed else 'refused'}\n",
        f"Weights: sha256 `{record.weight_digest or 'none'}`, {len(files)} files, "
        f"{sum(entry.size_bytes for entry in files):,} bytes, {record.parameters:,} parameters.\n",
        _summary(record),
        "## What this does not prove\n",
        f"{record.statement}\n",
        _licence(record),
        *_findings(record.findings),
        _formats(record),
        _files(files),
        "## How it was judged\n",
        f"Code `{record.code_digest or 'not recorded'}`, policy `{record.policy_sha256}`, chat "
        f"template `{record.template_sha256 or 'none'}`.\n",
    ]
    return "\n".join(parts)


def _summary(record: VerificationRecord) -> str:
    counts = {
        severity: sum(1 for finding in record.findings if finding.severity == severity)
        for severity in _HEADINGS
    }
    if record.passed:
        text = f"Every check was silent or left notes only ({counts['warning']} to look at)."
    else:
        text = f"{counts['refusal']} findings keep these weights out."
    return (
        f"{text} Checked: files and names, formats, headers, index and shards, configuration, "
        "tokenizer, chat templates, numbers, signature, licence.\n"
    )


def _licence(record: VerificationRecord) -> str:
    licence = record.licence
    lines = [
        "## Licence\n",
        f"- Licence: {licence.family}{f' (`{licence.spdx}`)' if licence.spdx else ''}",
        f"- Declared use: {licence.use}",
        f"- Allowed: {'yes' if licence.allowed else 'no'}",
        f"- Source of the facts: {licence.source or 'none'}",
        "- Obligations:" if licence.obligations else "- Obligations: none that are known",
        *(f"  - {_safe(line)}" for line in licence.obligations),
    ]
    return "\n".join(lines) + "\n"


def _findings(findings: Iterable[Finding]) -> list[str]:
    by_severity: dict[str, list[Finding]] = {}
    for finding in findings:
        by_severity.setdefault(finding.severity, []).append(finding)
    parts = []
    for severity, heading in _HEADINGS.items():
        if found := by_severity.get(severity):
            lines = [f"## {heading}\n", "| rule | file | fact | remedy |", "|---|---|---|---|"]
            for f in found:
                cells = (f"`{f.rule}`", _safe(f.file) or "all", _safe(f.fact), _safe(f.remedy))
                lines.append(f"| {' | '.join(cells)} |")
            parts.append("\n".join(lines) + "\n")
    return parts


def _formats(record: VerificationRecord) -> str:
    counted = ", ".join(f"{count} {name}" for name, count in record.formats.items())
    return f"## Formats\n\n{counted or 'no files'}\n"


def _files(files: Sequence[FileEntry]) -> str:
    lines = ["## Files\n", "| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| {_safe(f.path)} | {f.size_bytes:,} | `{f.sha256}` |" for f in files[:MAX_FILES]]
    if len(files) > MAX_FILES:
        lines.append(f"| {len(files) - MAX_FILES} more: see manifest.json | | |")
    return "\n".join(lines) + "\n"


def _safe(text: str) -> str:
    """Untrusted text inside a Markdown table: no markup, no line breaks."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|":
        escaped = escaped.replace(character, f"\\{character}")
    return " ".join(escaped.split())
