"""Waivers: somebody's signed-off answer to one rule about one set of weights, until a day.

A waiver is a file, so that it has an author and a history. It changes a refusal into a finding of
severity `waived`, which stays in the record and in the first lines of the report. Some refusals
cannot be waived: where bytes are not the bytes that were recorded, or a signature is wrong, nobody
knows what would be waived; a malformed file may be an attack on the parser that reads it, and two
programs may read it differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from pipelines.canonical import Frozen
from pipelines.errors import ConfigError, WaiverExpired
from pipelines.models_file import Digest, load_yaml, parse_config
from pipelines.records import Finding, VerificationRecord, Waiver
from pipelines.verification.findings import info, printable, refusal

NEVER_WAIVED = (
    "integrity.",
    "filesystem.",
    "json.",
    "safetensors.",
    "gguf.",
    "training.",
    "waiver.",
    "signature.wrong",
)


def _rule(rule: str) -> str:
    if is_never_waived(rule):
        raise ValueError(f"{rule} cannot be waived (docs/verify.md says why)")
    return rule


def _day(value: Any) -> Any:
    """A day, and neither a time nor a number of seconds."""
    if isinstance(value, datetime) or not isinstance(value, (date, str)):
        raise ValueError("write a day as 2027-01-31")
    return value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
_Rule = Annotated[
    str, StringConstraints(pattern=r"^[a-z]+\.[A-Za-z0-9._-]+$"), AfterValidator(_rule)
]
Day = Annotated[date, BeforeValidator(_day)]


class WaiverEntry(Frozen):
    """One waiver as its file states it."""

    digest: Digest
    rule: _Rule
    file: str | None = Field(default=None, description="only for this file; else for every file")
    reason: Text
    approver: Text
    expires: Day = Field(description="the last day on which it holds, in UTC")

    def note(self) -> Waiver:
        """What the record keeps."""
        return Waiver(
            reason=printable(self.reason), approver=printable(self.approver), expires=self.expires
        )


class WaiverFile(Frozen):
    """One file: a list under `waivers`."""

    waivers: Annotated[tuple[WaiverEntry, ...], Field(min_length=1)]


def is_never_waived(rule: str) -> bool:
    """Whether a refusal by this rule stands whatever a waiver says."""
    return rule.startswith(NEVER_WAIVED)


def today() -> date:
    """The day in UTC that expiry is compared with."""
    return datetime.now(UTC).date()


def load_waivers(path: Path) -> tuple[WaiverEntry, ...]:
    """Waivers of a file, or of every *.yaml in a folder; a folder that is not there has none.

    Raises WrongKindOfPath when a file is absent, ConfigError naming file and key for a wrong one
    and for a folder that holds anything but *.yaml and README.md.
    """
    if path.suffix == ".yaml" or path.is_file():
        return parse_config(path, WaiverFile, load_yaml(path)).waivers
    found: list[WaiverEntry] = []
    for member in sorted(path.iterdir()) if path.is_dir() else ():
        if member.suffix == ".yaml" and member.is_file():
            found += load_waivers(member)
        elif member.name not in ("README.md", ".gitignore"):
            fact = "it is neither a waiver (*.yaml) nor README.md, so it would be passed over"
            raise ConfigError(member, fact, "Name it *.yaml, or move it away.")
    return tuple(found)


def apply_waivers(
    findings: Iterable[Finding], waivers: Sequence[WaiverEntry], digest: str, day: date
) -> list[Finding]:
    """Findings with those refusals marked as waived that a waiver of this digest answers.

    An expired waiver answers nothing and is a refusal of its own; one that answers nothing for
    lack of such a refusal is noted. Weights without a digest have no waivers.
    """
    own = [waiver for waiver in waivers if digest and waiver.digest == digest]
    result, used = [], set[WaiverEntry]()
    for finding in findings:
        fitting = [waiver for waiver in own if _fits(waiver, finding)]
        valid = [waiver for waiver in fitting if waiver.expires >= day]
        used.update(fitting)
        if valid:
            longest = max(valid, key=lambda waiver: waiver.expires)
            update = {"severity": "waived", "waiver": longest.note()}
            result.append(finding.model_copy(update=update))
            continue
        result.append(finding)
        result += [_expired(waiver, finding) for waiver in fitting]
    for waiver in own:
        if waiver not in used:
            fact = f"a waiver of {waiver.rule} by {printable(waiver.approver)} answers no refusal"
            result.append(info("waiver.unused", waiver.file or "", fact, "Remove it."))
    return result


def check_expiry(record: VerificationRecord, day: date) -> None:
    """Raise WaiverExpired when a waiver that this record rests on ended before `day`."""
    if ended := expired(record, day):
        raise WaiverExpired(record.name, ended)


def expired(record: VerificationRecord, day: date) -> list[str]:
    """The waivers of a record that ended before `day`, one line each."""
    return [
        f"{finding.rule} by {finding.waiver.approver}, until {finding.waiver.expires}"
        for finding in record.findings
        if finding.waiver is not None and finding.waiver.expires < day
    ]


def _fits(waiver: WaiverEntry, finding: Finding) -> bool:
    return (
        finding.severity == "refusal"
        and finding.rule == waiver.rule
        and not is_never_waived(finding.rule)
        and waiver.file in (None, finding.file)
    )


def _expired(waiver: WaiverEntry, finding: Finding) -> Finding:
    fact = f"the waiver of {waiver.rule} by {printable(waiver.approver)} ended on {waiver.expires}"
    remedy = "Have it decided again, or mend what it waived."
    return refusal("waiver.expired", finding.file, fact, remedy)
