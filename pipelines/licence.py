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


def objections(row: LicenceRow, use: DeclaredUse) -> Iterator[Objection]:
    """Why a licence does not allow a use; nothing when it does."""
    if row.read is not True:
        fact = "its text was not read in full, so it cannot allow anything"
        yield "licence.not-read", fact, _READ
    if use.purpose == "commercial" and row.commercial is not True:
        fact = f"commercial use: {row.commercial or 'not allowed'}"
        yield "licence.commercial", f"{fact}{f' ({row.use})' if row.use else ''}", _ASK_COUNSEL
    if use.purpose == "commercial":
        yield from _cap(row, "monthly users", use.monthly_users, row.mau_cap, "mau_cap")
        revenue = row.revenue_cap_usd_year or row.revenue_cap
        keys = ("revenue_cap", "revenue_cap_usd_year")
        yield from _cap(row, "yearly revenue in USD", use.revenue_usd_year, revenue, *keys)
    yield from _territory(row, use)
    if use.redistribution and not row.establishes("attribution"):
        yield "licence.redistribution", "its terms of redistribution are not established", _READ
    if use.trains_other_models and row.outputs in (None, "forbidden"):
        limit = row.output_training_limit or "what it says about training on outputs is not known"
        yield "licence.training", limit, _ASK_COUNSEL if row.outputs else _READ


def _cap(
    row: LicenceRow, what: str, declared: int | None, cap: int | None, *keys: str
) -> Iterator[Objection]:
    if cap is not None:
        if declared is None:
            yield "licence.not-declared", f"it has a limit of {cap:,} {what}", _DECLARE
        elif declared > cap:
            basis = f" ({row.mau_basis})" if row.mau_basis and "users" in what else ""
            fact = f"{declared:,} {what} exceed its limit of {cap:,}{basis}"
            yield "licence.cap", fact, _ASK_COUNSEL
    elif not row.establishes(*keys):
        yield "licence.not-established", f"whether it limits {what} is not established", _READ


def _territory(row: LicenceRow, use: DeclaredUse) -> Iterator[Objection]:
    places = {place.upper() for place in use.territories}
    excluded = set(row.territory_excluded or ())
    if row.eu_exclusion:
        excluded.add("EU")
    if not excluded:
        if places and not row.establishes("territory_excluded"):
            yield "licence.not-established", "where it may be used is not established", _READ
        return
    names = ", ".join(sorted(excluded))
    reason = f" ({row.eu_exclusion})" if row.eu_exclusion else ""
    if not places:
        yield "licence.not-declared", f"it excludes {names}{reason}", _DECLARE
    reached = {p for p in places if p in excluded or (p in EUROPEAN_UNION and "EU" in excluded)}
    if reached:
        fact = f"it excludes {', '.join(sorted(reached))}{reason}"
        yield "licence.territory", fact, _ASK_COUNSEL


def obligations(row: LicenceRow, use: DeclaredUse) -> Iterator[str]:
    """What a licence asks of this use, as sentences that name the licence."""
    asked = [
        ("on redistribution: " if not use.redistribution else "", row.attribution),
        ("name: ", row.naming),
        ("use restrictions: ", row.field_of_use if isinstance(row.field_of_use, str) else ""),
        ("training other models on outputs: ", row.output_training_limit),
        ("termination: ", row.termination),
        ("further terms: ", row.addendum),
        ("", "the licence ends for who sues over patents" if row.patent_retaliation else ""),
        ("", "outputs are covered by the licence too" if row.covers_outputs else ""),
    ]
    for prefix, text in asked:
        if text:
            yield f"{row.family}: {prefix}{text}"


def describe_use(use: DeclaredUse) -> str:
    """A declared use in one line."""
    parts: list[str] = [use.purpose]
    if use.monthly_users is not None:
        parts.append(f"{use.monthly_users:,} monthly users")
    if use.revenue_usd_year is not None:
        parts.append(f"USD {use.revenue_usd_year:,} revenue a year")
    if use.territories:
        parts.append("in " + ", ".join(use.territories))
    parts.append("redistributed" if use.redistribution else "not redistributed")
    if use.trains_other_models:
        parts.append("outputs train other models")
    return ", ".join(parts)


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
