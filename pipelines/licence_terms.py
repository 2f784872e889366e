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


def objections(
    row: LicenceRow, use: DeclaredUse, *, text_only: bool = False
) -> Iterator[Objection]:
    """Why a licence does not allow a use; nothing when it does.

    `text_only`: the weights take and give nothing but text, so that a clause about multimodal
    models does not concern them where the release has text models too.
    """
    if row.read is not True:
        fact = "its text was not read in full, so it cannot allow anything"
        yield Objection("licence.not-read", fact, _READ, _PURPOSE)
    if use.purpose == "commercial" and row.commercial is not True:
        fact = f"commercial use: {row.commercial or 'not allowed'}"
        fact += f" ({row.use})" if row.use else ""
        yield Objection("licence.commercial", fact, ASK_COUNSEL, _PURPOSE)
    if use.purpose == "commercial":
        yield from _cap(row, _USERS, use.monthly_users, row.mau_cap, "mau_cap")
        keys = ("revenue_cap", "revenue_cap_usd_year")
        yield from _cap(row, _REVENUE, use.revenue_usd_year, _revenue_cap(row), *keys)
    yield from _territory(row, use, text_only)
    if use.redistribution and not row.establishes("attribution"):
        fact = "its terms of redistribution are not established"
        yield Objection("licence.redistribution", fact, _READ, _PASSING_ON)
    if use.trains_other_models and row.outputs in (None, "forbidden"):
        limit = row.output_training_limit or "what it says about training on outputs is not known"
        remedy = ASK_COUNSEL if row.outputs else _READ
        yield Objection("licence.training", limit, remedy, _TRAINING)


def answers(row: LicenceRow, use: DeclaredUse, *, text_only: bool = False) -> Iterator[UseAnswer]:
    """Every question of the declared use with what the licence says to it."""
    against: dict[str, list[str]] = {}
    for objection in objections(row, use, text_only=text_only):
        against.setdefault(objection.question, []).append(objection.fact)
    for question, declared, terms in _questions(row, use, text_only):
        refused = against.get(question, [])
        yield UseAnswer(
            family=row.family,
            question=question,
            declared=declared,
            terms="; ".join(refused) or terms,
            allowed=not refused,
        )


def _questions(
    row: LicenceRow, use: DeclaredUse, text_only: bool
) -> Iterator[tuple[str, str, str]]:
    """Question, what was declared, and the terms where nothing stands against the use."""
    commercial = use.purpose == "commercial"
    yield _PURPOSE, "yes" if commercial else "no: research", "allowed"
    if commercial:
        yield _USERS, _number(use.monthly_users), _limit(row.mau_cap)
        yield _REVENUE, _number(use.revenue_usd_year), _limit(_revenue_cap(row))
    excluded = ", ".join(sorted(_excluded(row, text_only)))
    places = f"everywhere except {excluded}" if excluded else "no territory is excluded"
    known = excluded or row.establishes("territory_excluded")
    yield _PLACES, ", ".join(use.territories) or "not declared", places if known else "not known"
    yield _PASSING_ON, _yes(use.redistribution), row.attribution or "not known"
    terms = row.output_training_limit or {"free": "no limit", None: "not known"}.get(row.outputs)
    yield _TRAINING, _yes(use.trains_other_models), terms or "under conditions"


def _yes(declared: bool) -> str:
    return "yes" if declared else "no"


def _number(declared: int | None) -> str:
    return "not declared" if declared is None else f"{declared:,}"


def _limit(cap: int | None) -> str:
    return "no limit" if cap is None else f"at most {cap:,}"


def _revenue_cap(row: LicenceRow) -> int | None:
    return row.revenue_cap_usd_year or row.revenue_cap


def _cap(
    row: LicenceRow, question: str, declared: int | None, cap: int | None, *keys: str
) -> Iterator[Objection]:
    what = question[0].lower() + question[1:]
    if cap is not None:
        if declared is None:
            fact = f"it has a limit of {cap:,} {what}"
            yield Objection("licence.not-declared", fact, _DECLARE, question)
        elif declared > cap:
            basis = f" ({row.mau_basis})" if row.mau_basis and question == _USERS else ""
            fact = f"{declared:,} {what} exceed its limit of {cap:,}{basis}"
            yield Objection("licence.cap", fact, ASK_COUNSEL, question)
    elif not row.establishes(*keys):
        fact = f"whether it limits {what} is not established"
        yield Objection("licence.not-established", fact, _READ, question)


def _excluded(row: LicenceRow, text_only: bool) -> set[str]:
    excluded = set(row.territory_excluded or ())
    if row.eu_exclusion and not (text_only and row.text_models):
        excluded.add("EU")
    return excluded


def _territory(row: LicenceRow, use: DeclaredUse, text_only: bool) -> Iterator[Objection]:
    places = {place.strip().upper() for place in use.territories}
    excluded = _excluded(row, text_only)
    if not excluded:
        if places and not row.establishes("territory_excluded"):
            fact = "where it may be used is not established"
            yield Objection("licence.not-established", fact, _READ, _PLACES)
        return
    names = ", ".join(sorted(excluded))
    reason = f" ({row.eu_exclusion})" if "EU" in excluded and row.eu_exclusion else ""
    if not places:
        fact = f"it excludes {names}{reason}"
        yield Objection("licence.not-declared", fact, _DECLARE, _PLACES)
    if reached := {place for place in places if _reaches(place, excluded)}:
        fact = f"it excludes {names}{reason}, and the use reaches {', '.join(sorted(reached))}"
        yield Objection("licence.territory", fact, ASK_COUNSEL, _PLACES)


def _reaches(place: str, excluded: set[str]) -> bool:
    """Whether a declared place lies in an excluded one; anything but a country code may."""
    if len(place) != 2 or not place.isalpha():
        return True
    return (
        place in excluded
        or (place == "GB" and "UK" in excluded)
        or ("EU" in excluded and place in EUROPEAN_UNION)
    )


def obligations(row: LicenceRow) -> Iterator[str]:
    """What a licence asks of whoever uses or passes on, each line naming the licence."""
    passed_on = "" if "redistribution" in row.attribution else "when the weights are passed on: "
    asked = [
        (passed_on, row.attribution),
        ("name: ", row.naming),
        ("use restrictions: ", row.field_of_use if isinstance(row.field_of_use, str) else ""),
        ("training other models on outputs: ", row.output_training_limit),
        ("termination: ", row.termination),
        ("further terms: ", row.addendum),
        ("", "patent rights end for whoever sues over patents" if row.patent_retaliation else ""),
        ("", "outputs are covered by the licence too" if row.covers_outputs else ""),
    ]
    for prefix, text in asked:
        if text:
            yield f"{row.family}: {prefix}{text}"
