"""Whether a licence allows the declared use, and what it asks in return. Not legal advice.

Every set of weights on the path to a model (base, adapter, merge, quantisation) has a licence, and
each must allow the use: the strictest wins, an unknown one blocks. What the data does not establish
about a licence cannot allow a use that depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipelines.licence_claims import Subject, establish
from pipelines.licence_facts import LicenceRow, licence_facts
from pipelines.models_file import DeclaredUse
from pipelines.records import Finding, LicenceDecision, ManifestRecord
from pipelines.verification.findings import refusal, words
from pipelines.verification.policy import VerificationPolicy

EUROPEAN_UNION = words(
    "EU AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
)
UNKNOWN = "unknown"
_ASK_COUNSEL = "Take another model, or have the terms negotiated and recorded."
_DECLARE = "Declare it under uses in models.yaml."
_READ = "Read the text and complete the row in pipelines/licences.json, with source and date."

Objection = tuple[str, str, str]  # rule, fact, remedy


def subjects_of(manifest: ManifestRecord) -> list[Subject]:
    """The model itself and its ancestors; weights made here have only their ancestors' licences."""
    own = [Subject("", manifest.licences)] if manifest.licences or not manifest.pedigree else []
    return own + [Subject(ancestor.name, ancestor.licences) for ancestor in manifest.pedigree]


def decide_licence(
    subjects: Sequence[Subject],
    texts: Mapping[str, str],
    use: DeclaredUse,
    policy: VerificationPolicy,
) -> tuple[LicenceDecision, list[Finding]]:
    """Judge a use against every licence on the path; `texts` maps sha256 of bytes to texts.

    The decision names the strictest licence; it allows the use only when no finding refuses.
    """
    findings: list[Finding] = []
    rows: list[LicenceRow] = []
    for subject in subjects:
        family, found = establish(subject, texts)
        findings += found
        if family is not None:
            rows.append(licence_facts().rows[family])
    for row in dict.fromkeys(rows):
        for rule, fact, remedy in (*_policy_objections(row, policy), *objections(row, use)):
            findings.append(refusal(rule, "", f"{row.family}: {fact}", remedy))
    findings = [_without_text(finding, policy) for finding in findings]
    allowed = bool(rows) and not any(finding.severity == "refusal" for finding in findings)
    return _decision(rows, len(subjects), use, allowed), findings


def _policy_objections(row: LicenceRow, policy: VerificationPolicy) -> Iterator[Objection]:
    if row.family in policy.blocked_licences:
        yield "licence.blocked", "the policy blocks it", "Take another model."
    if policy.allowed_licences is not None and row.family not in policy.allowed_licences:
        yield "licence.not-allowed", "the policy does not list it", "Take another model."


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


def _decision(
    rows: Sequence[LicenceRow], subjects: int, use: DeclaredUse, allowed: bool
) -> LicenceDecision:
    """The strictest row, every row's obligations; unknown when one of the subjects is."""
    unique = list(dict.fromkeys(rows))
    asked = dict.fromkeys(line for row in unique for line in obligations(row, use))
    if not rows or len(rows) < subjects:
        family, spdx, source = UNKNOWN, "", ""
    else:
        strictest = max(unique, key=_strictness)
        family, spdx, source = strictest.family, strictest.spdx, strictest.source
    return LicenceDecision(
        family=family,
        spdx=spdx,
        use=describe_use(use),
        allowed=allowed,
        obligations=tuple(asked),
        source=source,
    )
