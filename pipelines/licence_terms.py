"""What the terms of one licence say to a declared use. Not legal advice.

Each question of the use has an answer: allowed, or why not. What the data does not establish about
a licence cannot allow a use that depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipelines.licence_facts import LicenceRow
from pipelines.models_file import DeclaredUse
from pipelines.records import UseAnswer
from pipelines.verification.findings import words

EUROPEAN_UNION = words(
    "EU AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
)
ASK_COUNSEL = "Take another model, or have the terms negotiated and recorded."
_DECLARE = "Declare it under uses in models.yaml."
_READ = "Read the text and complete the row in pipelines/licences.json, with source and date."
_PURPOSE, _USERS, _REVENUE = "Commercial use", "Monthly users", "Yearly revenue in USD"
_PLACES, _PASSING_ON = "Where it is used", "Passing the weights on"
_TRAINING = "Training other models on outputs"


class Objection(NamedTuple):
    """Why a licence does not allow a use."""

    rule: str
    fact: str
    remedy: str
    question: str = ""


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


