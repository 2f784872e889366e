"""Second opinions: public scanners as confined subprocesses, for what our own checks may miss.

They decide nothing by default: what they find is a warning. But a policy that lists a scanner
relies on it, so a scanner that is absent, fails, runs out of time or leaves a file unread is a
refusal: a scan that did not happen is no pass.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.confinement import Finished, Limits, run_confined
from pipelines.errors import MalformedFile
from pipelines.records import Finding
from pipelines.verification.contents import Contents
from pipelines.verification.findings import info, printable, quoted, refusal, warning
from pipelines.verification.policy import Scanner, VerificationPolicy
from pipelines.verification.strict_json import parse_strict

Level = Literal["block", "warn", "note", "unread"]

_NO_LIMIT = 10**15  # bytes; the scanners' own limits leave large files unread, silently or not
_MAX_MESSAGE = 400
_LOOK = "Look at the file; waive the finding if it is harmless."
# hayward's rules that mean 'not fully read' (hayward/findings.py, COVERAGE_RULE_IDS, 1.4.1).
_HAYWARD_UNREAD = ("MFV-SKIP-", "MFV-7Z-001", "MFV-GGUF-004", "MFV-LFS-001")
_HAYWARD_LEVELS: dict[str, Level] = {
    "critical": "block",
    "high": "block",
    "medium": "warn",
    "low": "warn",
    "info": "note",
}
_MODELAUDIT_LEVELS: dict[str, Level] = {
    "critical": "block",
    "warning": "warn",
    "info": "note",
    "debug": "note",
}


@dataclass(frozen=True)
class Remark:
    """One finding of a scanner, in words of its own."""

    rule: str
    level: Level
    place: str
    message: str


@dataclass(frozen=True)
class Report:
    """What a scanner printed, understood."""

    version: str
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class _Scanner:
    arguments: tuple[str, ...]
    exit_codes: tuple[int, ...]  # that mean: the scan took place
    read: Callable[[dict[str, Any]], Report]
    remedy: str


class _NotUnderstood(Exception):
    """A report in another form than expected; becomes a finding."""


def check(contents: Contents, policy: VerificationPolicy) -> Iterator[Finding]:
    """Ask every scanner that the policy lists about the whole folder."""
    limits = Limits(policy.second_opinion_timeout_s, policy.second_opinion_memory_mb * 1024**2)
    for name in policy.second_opinion:
        yield from _ask(name, contents, limits, blocks=policy.second_opinion_blocks)


def _ask(name: str, contents: Contents, limits: Limits, *, blocks: bool) -> Iterator[Finding]:
    scanner, program = _SCANNERS[name], find_program(name)
    if program is None:
        fact = f"the policy asks {name} for a second opinion, and it is not installed"
        yield refusal(f"scanner.{name}.absent", "", fact, scanner.remedy)
        return
    target = contents.root.resolve()
    done = run_confined([program, *scanner.arguments, str(target)], limits)
    try:
        report = _understand(scanner, done, limits)
    except _NotUnderstood as error:
        remedy = f"Run `{name} scan` on the folder to see why, or take it out of the policy."
        yield refusal(f"scanner.{name}.failed", "", f"{name} gave no verdict: {error}", remedy)
        return
    files = {entry.path for entry in contents.files}
    yield info(f"scanner.{name}.ran", "", f"{name} {report.version}: {len(report.remarks)} remarks")
    for remark in report.remarks:
        yield _finding(name, remark, target, files, blocks=blocks)


def read_report(name: Scanner, target: Path, limits: Limits) -> tuple[Remark, ...] | str:
    """What an installed scanner says about one file; a text says why it said nothing."""
    scanner, program = _SCANNERS[name], find_program(name)
    if program is None:
        return "it is not installed"
    done = run_confined([program, *scanner.arguments, str(target)], limits)
    try:
        return _understand(scanner, done, limits).remarks
    except _NotUnderstood as error:
        return str(error)


def find_program(name: str) -> str | None:
    """A scanner on PATH, or beside this interpreter: DVC starts stages without the latter."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


def _understand(scanner: _Scanner, done: Finished, limits: Limits) -> Report:
    if done.timed_out:
        raise _NotUnderstood(f"it had not ended after {limits.timeout_s:g} s")
    if done.returncode not in scanner.exit_codes:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = quoted(lines[-1], 200) if lines else "nothing"
        raise _NotUnderstood(f"it ended with {done.returncode} and said {last}")
    try:
        document = parse_strict(done.stdout, "report")
    except MalformedFile as error:
        raise _NotUnderstood(f"its report cannot be read ({error.fact})") from error
    if not isinstance(document, dict):
        raise _NotUnderstood("its report is no JSON object")
    return scanner.read(document)


def _finding(name: str, remark: Remark, root: Path, files: set[str], *, blocks: bool) -> Finding:
    rule = f"scanner.{name}.{re.sub(r'[^A-Za-z0-9._-]', '-', remark.rule)[:80]}"
    message = printable(remark.message.replace(f"{root}/", "").replace(str(root), "the folder"))
    fact = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…"
    file = _file(remark.place, root, files)
    if remark.level == "unread" or (remark.level == "block" and blocks):
        return refusal(rule, file, fact, _LOOK)
    if remark.level == "note":
        return info(rule, file, fact)
    return warning(rule, file, fact, _LOOK)


def _file(place: str, root: Path, files: set[str]) -> str:
    """The file that a place such as '/folder/config.json:chat_template' lies in, or ''."""
    relative = place.removeprefix(f"{root}/").removeprefix("./")
    holding = [name for name in files if relative == name or relative.startswith(name)]
    return max(holding, key=len, default="")


def _read_hayward(document: dict[str, Any]) -> Report:
    if document.get("tool") != "hayward" or document.get("schema_version") != 1:
        raise _NotUnderstood("its report has another form than hayward's schema 1")
    remarks = []
    for found in _list(document, "findings"):
        rule, level = _text(found, "rule_id"), _level(_HAYWARD_LEVELS, found)
        if rule.startswith(_HAYWARD_UNREAD):
            level = "unread"
        remarks.append(Remark(rule, level, _text(found, "file"), _text(found, "message")))
    unread = sorted(remark.place for remark in remarks if remark.level == "unread")
    gaps = document.get("coverage_gaps")
    if not isinstance(gaps, list) or sorted(map(str, gaps)) != unread:
        raise _NotUnderstood(f"it left {quoted(gaps)} unread, and gives no known reason")
    return Report(_text(document, "version"), tuple(remarks))


def _read_modelaudit(document: dict[str, Any]) -> Report:
    if document.get("has_errors") is not False:
        raise _NotUnderstood("it met errors")
    remarks = []
    for found in _list(document, "issues"):
        rule = found.get("rule_code") or found.get("type")
        level, message = _level(_MODELAUDIT_LEVELS, found), _text(found, "message")
        place = found.get("location")
        remarks.append(Remark(str(rule), level, place if isinstance(place, str) else "", message))
    metadata = document.get("file_metadata")
    if not isinstance(metadata, dict):
        raise _NotUnderstood("its report has no file_metadata")
    for place, known in metadata.items():
        if isinstance(known, dict) and known.get("scan_outcome") == "inconclusive":
            message = f"not read to its end ({quoted(known.get('scan_outcome_reasons'), 120)})"
            remarks.append(Remark("inconclusive", "unread", place, message))
    return Report(_modelaudit_version(), tuple(remarks))


def _modelaudit_version() -> str:
    """Its report does not say; asked once more, confined too."""
    program = find_program("modelaudit")
    assert program is not None
    done = run_confined([program, "--version"], Limits(120, 8 * 1024**3))
    words = done.stdout.decode(errors="replace").split()
    return printable(words[-1]) if done.returncode == 0 and words else "of unknown version"


def _list(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise _NotUnderstood(f"its report has no list of {name}")
    return found


def _text(document: dict[str, Any], name: str) -> str:
    found = document.get(name)
    if not isinstance(found, str):
        raise _NotUnderstood(f"a finding in its report has no {name}")
    return found


def _level(levels: dict[str, Level], found: dict[str, Any]) -> Level:
    severity = _text(found, "severity")
    if severity not in levels:
        raise _NotUnderstood(f"its report has the severity {quoted(severity)}")
    return levels[severity]


_SCANNERS = {
    "hayward": _Scanner(
        arguments=(
            *("scan", "--format", "json", "--quiet", "--color", "never"),
            *("--fail-on", "never", "--max-size", str(_NO_LIMIT)),
        ),
        exit_codes=(0,),
        read=_read_hayward,
        remedy="Install it (pip install hayward), or take it out of the policy.",
    ),
    "modelaudit": _Scanner(
        arguments=(
            *("scan", "--format", "json", "--quiet", "--strict", "--no-cache"),
            *("--max-size", str(_NO_LIMIT)),
        ),
        exit_codes=(0, 1),
        read=_read_modelaudit,
        remedy="Install it where PATH finds it (pipx install modelaudit), or take it out of the "
        "policy.",
    ),
}
