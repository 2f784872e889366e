"""Whether a licence allows the declared use, and what it asks in return. Not legal advice.

Every set of weights on the path to a model (base, adapter, merge, quantisation) has a licence, and
each must allow the use: the strictest wins, an unknown one blocks. What the data does not establish
about a licence cannot allow a use that depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.licence_claims import Established, Subject, establish
from pipelines.licence_facts import LicenceRow, licence_facts
from pipelines.licence_terms import Objection, answers, describe_use, objections, obligations
from pipelines.models_file import DeclaredUse
from pipelines.records import Finding, LicenceDecision, LicenceStep, ManifestRecord
from pipelines.verification.findings import refusal
from pipelines.verification.policy import VerificationPolicy

UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Asked:
    """What every licence on the path is asked."""

    use: DeclaredUse
    policy: VerificationPolicy
    text_only: bool

    def objections(self, row: LicenceRow) -> list[Objection]:
        """Why policy or terms do not allow this use."""
        found = [*_policy_objections(row, self.policy)]
        return found + list(objections(row, self.use, text_only=self.text_only))


def subjects_of(manifest: ManifestRecord) -> list[Subject]:
    """The model itself and its ancestors; weights made here have only their ancestors' licences."""
    own = [Subject("", manifest.licences)] if manifest.licences or not manifest.pedigree else []
    return own + [Subject(ancestor.name, ancestor.licences) for ancestor in manifest.pedigree]


def decide_licence(
    subjects: Sequence[Subject],
    texts: Mapping[str, str],
    use: DeclaredUse,
    policy: VerificationPolicy,
    *,
    text_only: bool = False,
) -> tuple[LicenceDecision, list[Finding]]:
    """Judge a use against every licence on the path; `texts` maps sha256 of bytes to texts.

    The decision names the strictest licence; it allows the use only when no finding refuses.
    `text_only`: see `licence_terms.objections`.
    """
    asked = _Asked(use, policy, text_only)
    findings: list[Finding] = []
    rows: list[LicenceRow] = []
    path: list[LicenceStep] = []
    for subject in subjects:
        established = establish(subject, texts)
        findings += established.findings
        chosen = _choose(established, asked)
        rows += chosen
        path.append(_step(subject, established, chosen))
    for row in dict.fromkeys(rows):
        for objection in asked.objections(row):
            fact = f"{row.family}: {objection.fact}"
            findings.append(refusal(objection.rule, "", fact, objection.remedy))
    findings = [_without_text(finding, policy) for finding in findings]
    unique = tuple(dict.fromkeys(rows))
    known = bool(rows) and all(step.families for step in path)
    strictest = max(unique, key=_strictness) if known else None
    decision = LicenceDecision(
        family=strictest.family if strictest else UNKNOWN,
        spdx=strictest.spdx if strictest else "",
        use=describe_use(use),
        allowed=known and not any(finding.severity == "refusal" for finding in findings),
        obligations=tuple(dict.fromkeys(o for row in unique for o in obligations(row))),
        source=strictest.source if strictest else "",
        path=tuple(path),
        answers=tuple(a for row in unique for a in answers(row, use, text_only=text_only)),
    )
    return decision, findings


def _choose(established: Established, asked: _Asked) -> list[LicenceRow]:
    """The choice that stands least against the use, then the least strict one."""
    known = licence_facts().rows
    choices = [[known[name] for name in sorted(choice)] for choice in established.options]

    def cost(rows: list[LicenceRow]) -> tuple[int, list[tuple[bool, ...]], list[str]]:
        against = sum(len(asked.objections(row)) for row in rows)
        strict = sorted((_strictness(row) for row in rows), reverse=True)
        return against, strict, [row.family for row in rows]

    return min(choices, key=cost) if choices else []


def _step(subject: Subject, established: Established, rows: Sequence[LicenceRow]) -> LicenceStep:
    return LicenceStep(
        subject=subject.name,
        families=tuple(row.family for row in rows),
        claims=established.claims,
        spdx=tuple(row.spdx for row in rows if row.spdx),
        sources=tuple(row.source for row in rows),
    )


def _policy_objections(row: LicenceRow, policy: VerificationPolicy) -> Iterator[Objection]:
    remedy = "Take another model."
    if row.family in policy.blocked_licences:
        yield Objection("licence.blocked", "the policy blocks it", remedy)
    if policy.allowed_licences is not None and row.family not in policy.allowed_licences:
        yield Objection("licence.not-allowed", "the policy does not list it", remedy)


def _without_text(finding: Finding, policy: VerificationPolicy) -> Finding:
    """A licence without its text is a warning, or a refusal where the policy wants texts."""
    if policy.require_licence_text and finding.rule == "licence.text-absent":
        return finding.model_copy(update={"severity": "refusal"})
    return finding


def _strictness(row: LicenceRow) -> tuple[bool, ...]:
    return (
        row.read is not True,
        row.commercial is not True,
        bool(row.territory_excluded or row.eu_exclusion),
        row.mau_cap is not None or row.revenue_cap_usd_year is not None,
        isinstance(row.field_of_use, str),
        row.outputs != "free",
        row.patent_retaliation,
    )
