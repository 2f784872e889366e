"""report.md: the verdict for a reader who is a lawyer, and for one who is an engineer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.digest import FileEntry
from pipelines.notice import licence_line
from pipelines.records import Finding, LicenceDecision, VerificationRecord

_HEADINGS = {
    "refusal": "What keeps it out",
    "waived": "What was waived",
    "warning": "What someone should look at",
    "info": "What else was noted",
}
# What was checked: a name, what it asks, and the first word of its rules.
_CHECKS = (
    ("Bytes", "are they the ones that were recorded?", ("integrity", "training")),
    ("Names", "can a name or a link lead out of the folder?", ("filesystem",)),
    ("Formats", "is every file of an admitted format, and well formed?",
     ("format", "json", "safetensors", "gguf")),
    ("Agreement", "do index, shards, configuration and weights agree?",
     ("index", "config", "adapter", "generation")),
    ("Code", "does anything make a loader fetch or run code?", ("hook",)),
    ("Chat template", "does it do anything that an honest one needs not do?", ("template",)),
    ("Tokenizer", "does it rewrite text or reach beyond the vocabulary?", ("tokenizer",)),
    ("Numbers", "are there NaN, infinite, empty or constant weights?",
     ("tensor", "tensors", "weights", "numbers")),
    ("Signature", "did the publisher sign these files?", ("signature",)),
    ("Second opinion", "what do the public scanners that the policy lists say?", ("scanner",)),
    ("Licence", "does it allow the declared use?", ("licence",)),
)  # fmt: skip
_NOT_CHECKED = (
    "what the model answers: how well, how safely, and to which hidden trigger",
    "known vulnerabilities of the programs that will load it: `weighbridge advisories check`",
    "whether the publisher had the right to license these weights, or the data behind them",
)
_UNPINNED = "integrity.unpinned"
_LEFT_OUT = (_UNPINNED, "config.not-derived", "scanner.not-run")
MAX_FILES = 200


def render_report(record: VerificationRecord, files: Sequence[FileEntry]) -> str:
    """The whole report as Markdown; the same record and files give the same text."""
    parts = [
        f"# Verification of {_safe(record.name)}: {'passed' if record.passed else 'refused'}\n",
        *_waivers(record),
        _summary(record),
        f"Weights: sha256 `{record.weight_digest or 'none'}`, {len(files)} files, "
        f"{sum(entry.size_bytes for entry in files):,} bytes, {record.parameters:,} parameters.\n",
        *_findings(record.findings, ("refusal", "waived", "warning")),
        _checked(record),
        _licence(record.licence),
        _not_proven(record),
        *_findings(record.findings, ("info",)),
        _files(record, files),
        "## How it was judged\n",
        f"Code `{record.code_digest or 'not recorded'}`, policy `{record.policy_sha256}`, chat "
        f"template `{record.template_sha256 or 'none'}`. The same facts lie in verification.json "
        "(for programs) and bom.cdx.json (CycloneDX 1.7), the licence notice in NOTICE.\n",
    ]
    return "\n".join(parts)


def _waivers(record: VerificationRecord) -> list[str]:
    """The first thing that a reader sees: what somebody answered for, and until when."""
    lines = [
        f"- `{finding.rule}`{f' in {_safe(finding.file)}' if finding.file else ''}, waived by "
        f"{_safe(finding.waiver.approver)} until {finding.waiver.expires}: "
        f"{_safe(finding.waiver.reason)}"
        for finding in record.findings
        if finding.waiver is not None
    ]
    if not lines:
        return []
    what = "1 waiver" if len(lines) == 1 else f"{len(lines)} waived findings"
    return [f"**This verdict rests on {what}:**\n", "\n".join(lines) + "\n"]


def _summary(record: VerificationRecord) -> str:
    counts = {
        severity: sum(1 for finding in record.findings if finding.severity == severity)
        for severity in _HEADINGS
    }
    look = f"{counts['warning'] or 'no'} {'note' if counts['warning'] == 1 else 'notes'} to look at"
    if not record.passed:
        number = counts["refusal"]
        found = "One finding keeps" if number == 1 else f"{number} findings keep"
        if not number:
            found = "The folder has no identity, which keeps"
        return f"{found} these weights out; {look}. Each is named below with its remedy.\n"
    licence = record.licence
    allowed = f"The licence ({licence.family}) allows the declared use"
    if not licence.allowed:
        allowed = f"The licence ({licence.family}) does not allow the declared use by itself"
    return f"No check refuses these weights; {look}. {allowed}: {licence.use}.\n"


def _checked(record: VerificationRecord) -> str:
    by_area: dict[str, list[Finding]] = {}
    for finding in record.findings:
        by_area.setdefault(finding.rule.partition(".")[0], []).append(finding)
    lines = ["## What was checked\n", "| check | question | result |", "|---|---|---|"]
    for name, question, areas in _CHECKS:
        found = [finding for area in areas for finding in by_area.pop(area, [])]
        asked = found or areas != ("scanner",)
        lines.append(f"| {name} | {question} | {_result(found) if asked else 'not asked'} |")
    for area, found in sorted(by_area.items()):
        lines.append(f"| {_safe(area)} | further rules | {_result(found)} |")
    return "\n".join(lines) + "\n"


def _result(found: Sequence[Finding]) -> str:
    words = {"refusal": "refused", "waived": "waived", "warning": "to look at"}
    counts = [
        f"{number} {word}"
        for severity, word in words.items()
        if (number := sum(1 for finding in found if finding.severity == severity))
    ]
    if not counts and any(finding.rule == _UNPINNED for finding in found):
        return "not compared: no manifest was given"
    if not counts and any(finding.rule == "signature.absent" for finding in found):
        return "not signed"
    return ", ".join(counts) or "nothing found"


def _licence(licence: LicenceDecision) -> str:
    lines = [
        "## Licence\n",
        f"- Licence: {licence_line(licence)}",
        f"- Declared use: {licence.use}",
        f"- Allowed: {'yes' if licence.allowed else 'no'}",
        "",
    ]
    if licence.path:
        lines += ["| weights | licence | what says so | terms read in |", "|---|---|---|---|"]
        for step in licence.path:
            families = " and ".join(step.families) or "**not established**"
            said = "; ".join(_safe(claim) for claim in step.claims) or "nothing"
            subject = _safe(step.subject) or "these"
            lines.append(f"| {subject} | {families} | {said} | {_safe('; '.join(step.sources))} |")
        lines.append("")
    if licence.answers:
        lines += ["| licence | question | declared | the terms | |", "|---|---|---|---|---|"]
        for answer in licence.answers:
            cells = (answer.family, answer.question, answer.declared, answer.terms)
            verdict = "allowed" if answer.allowed else "**refused**"
            verdict = "not asked" if answer.allowed and answer.declared == "no" else verdict
            lines.append(f"| {' | '.join(map(_safe, cells))} | {verdict} |")
        lines.append("")
    lines += ["Obligations:" if licence.obligations else "Obligations: none that are known.", ""]
    lines += [f"- {_safe(line)}" for line in licence.obligations]
    lines += ["", "This is not legal advice; the texts decide."]
    return "\n".join(lines) + "\n"


def _not_proven(record: VerificationRecord) -> str:
    lines = ["## What this does not prove\n", record.statement, "", "Not checked here:", ""]
    lines += [f"- {what}" for what in _NOT_CHECKED]
    lines += [
        f"- {_safe(f'{finding.file}: ' if finding.file else '')}{_safe(finding.fact)}"
        for finding in record.findings
        if finding.rule in _LEFT_OUT
    ]
    return "\n".join(lines) + "\n"


def _findings(findings: Iterable[Finding], severities: Sequence[str]) -> list[str]:
    by_severity: dict[str, list[Finding]] = {}
    for finding in findings:
        by_severity.setdefault(finding.severity, []).append(finding)
    parts = []
    for severity in severities:
        if found := by_severity.get(severity):
            heading = f"## {_HEADINGS[severity]}\n"
            lines = [heading, "| rule | file | fact | remedy |", "|---|---|---|---|"]
            for f in found:
                cells = (f"`{f.rule}`", _safe(f.file) or "all", _safe(f.fact), _safe(f.remedy))
                lines.append(f"| {' | '.join(cells)} |")
            parts.append("\n".join(lines) + "\n")
    return parts


def _files(record: VerificationRecord, files: Sequence[FileEntry]) -> str:
    counted = ", ".join(f"{count} {name}" for name, count in record.formats.items())
    lines = ["## Files\n", f"By content: {counted or 'no files'}.\n"]
    lines += ["| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| {_safe(f.path)} | {f.size_bytes:,} | `{f.sha256}` |" for f in files[:MAX_FILES]]
    if len(files) > MAX_FILES:
        lines.append(f"| {len(files) - MAX_FILES} more: see bom.cdx.json | | |")
    return "\n".join(lines) + "\n"


def _safe(text: str) -> str:
    """Untrusted text inside a Markdown table: no markup, no line breaks."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|":
        escaped = escaped.replace(character, f"\\{character}")
    return " ".join(escaped.split())
