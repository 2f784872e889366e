"""From what a source claims about its licence to its families, or to the reason why not.

A tag is a claim, a text is evidence. All claims about one set of weights must lead to one family;
two that disagree are a refusal that names both, and so is one that leads nowhere. Only an SPDX
expression may name several: those that hold together (AND), and those to choose from (OR).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipelines.licence_expression import Options, is_expression, options
from pipelines.licence_facts import LicenceFacts, licence_facts
from pipelines.licence_text import Identified, identify
from pipelines.records import Finding, LicenceClaim
from pipelines.verification.findings import listed, printable, quoted, refusal, refusals, warning

# Claims that only point somewhere, and claims that say nothing.
_POINTERS = ("license_link", "license.link")
_HINTS = ("license_name", "license.name")
_SILENT = frozenset({"", "unknown", "none", "license :: osi approved", "license"})
_OTHER = frozenset({"other", "license :: other/proprietary license"})
_FILE = re.compile(r"[\w./-]*(\.(md|txt|rst|gguf)|(un)?(licen[cs]e|copying)[\w.-]*)", re.IGNORECASE)
_ASK = "Ask the publisher which licence holds, and take a revision that says so."
# Texts of these families are recognised whatever their layout, so another wording is another text.
_EXACT_ONLY = frozenset({"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause"})


@dataclass(frozen=True)
class Subject:
    """Weights that a licence holds for: the model itself ('') or one of its ancestors (a name)."""

    name: str
    claims: tuple[LicenceClaim, ...]


@dataclass(frozen=True)
class Established:
    """What the claims of one subject lead to: choices of families, none where a finding refuses."""

    options: Options
    claims: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass
class _Reading:
    """What the claims of one subject say; each list holds the sources."""

    by_tag: dict[str, list[str]] = field(default_factory=dict)
    by_text: dict[str, list[str]] = field(default_factory=dict)
    by_title: dict[str, list[str]] = field(default_factory=dict)
    by_expression: dict[Options, list[str]] = field(default_factory=dict)
    generic: dict[frozenset[str], list[str]] = field(default_factory=dict)
    hints: dict[str, list[str]] = field(default_factory=dict)
    says_other: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unknown_texts: list[str] = field(default_factory=list)
    empty_texts: list[str] = field(default_factory=list)
    absent_texts: list[str] = field(default_factory=list)

    def families(self) -> dict[str, list[str]]:
        """Families that tags, texts and titles lead to, with their sources."""
        merged: dict[str, list[str]] = {}
        for where in (self.by_tag, self.by_text, self.by_title):
            for family, sources in where.items():
                merged.setdefault(family, []).extend(sources)
        return merged

    def expressed(self) -> frozenset[str]:
        """Every family that an expression names."""
        return frozenset(
            family for choices in self.by_expression for choice in choices for family in choice
        )

    def options(self) -> Options:
        """What the one expression leaves to choose from, else the one family."""
        if self.by_expression:
            return next(iter(self.by_expression))
        return (frozenset(self.families()),)

    def claims(self) -> Iterator[str]:
        """Every claim in a few words."""
        for what, where in (("text of", self.by_text), ("text titled", self.by_title)):
            for family, sources in where.items():
                yield from (f"{source}: {what} {family}" for source in sources)
        groups = (self.by_tag, self.by_expression, self.generic, self.hints)
        for sources in (s for group in groups for s in group.values()):
            yield from sources
        yield from self.says_other
        yield from self.unknown
        for source in self.unknown_texts:
            yield f"{source}: a text that is not known here"


def establish(subject: Subject, texts: Mapping[str, str]) -> Established:
    """Which families the claims of a subject lead to, and what was found on the way.

    `texts` maps the sha256 of a licence file's bytes to its text.
    """
    reading = _read(subject, texts, licence_facts())
    findings = tuple(_findings(subject, reading))
    refused = any(finding.severity == "refusal" for finding in findings)
    return Established(
        options=() if refused else reading.options(),
        claims=tuple(reading.claims()),
        findings=findings,
    )


def _read(subject: Subject, texts: Mapping[str, str], facts: LicenceFacts) -> _Reading:
    reading = _Reading()
    for claim in subject.claims:
        source = printable(claim.source)
        if claim.text_sha256:
            text = texts.get(claim.text_sha256)
            if text is None:
                reading.absent_texts.append(source)
            elif not text.strip():
                reading.empty_texts.append(source)
            else:
                _read_text(reading, source, identify(text, facts.by_text, facts.by_title))
        if not claim.source.endswith(_POINTERS):
            _read_tag(reading, source, claim, facts)
    return reading


def _read_text(reading: _Reading, source: str, found: Identified | None) -> None:
    if found is None:
        reading.unknown_texts.append(source)
    elif found.exact:
        reading.by_text.setdefault(found.family, []).append(source)
    else:
        reading.by_title.setdefault(found.family, []).append(source)


def _read_tag(reading: _Reading, source: str, claim: LicenceClaim, facts: LicenceFacts) -> None:
    tag = " ".join(claim.identifier.lower().split())
    short = tag.removeprefix("license :: osi approved :: ")
    said = f"{source} ({quoted(claim.identifier)})"
    if claim.source.endswith(_HINTS):
        family = facts.by_license_name.get(tag) or facts.by_name.get(tag)
        if family:
            reading.hints.setdefault(family, []).append(said)
    elif tag in _SILENT or short in _SILENT:
        return
    elif tag in _OTHER:
        reading.says_other.append(said)
    elif family := facts.by_name.get(tag) or facts.by_name.get(short):
        reading.by_tag.setdefault(family, []).append(said)
    elif some := facts.by_generic_name.get(tag) or facts.by_generic_name.get(short):
        reading.generic.setdefault(some, []).append(said)
    elif is_expression(tag) and (choices := options(tag, facts.by_name)):
        reading.by_expression.setdefault(choices, []).append(said)
    else:
        reading.unknown.append(said)


def _findings(subject: Subject, reading: _Reading) -> Iterator[Finding]:
    of = f" of the ancestor {quoted(subject.name)}" if subject.name else ""
    for source in reading.empty_texts:
        yield refusal("licence.unknown-text", source, f"the text{of} is empty", _ASK)
    for source in reading.unknown_texts:
        fact = f"the text{of} is not one of the licences that are known here"
        yield refusal("licence.unknown-text", source, fact, "Read it and add its family, or ask.")
    for source in reading.unknown:
        fact = f"{source}{of} is not a licence that is known here"
        remedy = "Read its text and add its family to the data."
        yield from refusals("licence.unknown", _files([source], of), fact, remedy)
    yield from _absent_texts(subject, reading, of)
    families = reading.families()
    if reading.by_expression:
        yield from _expression(reading, of)
    elif len(families) > 1:
        said = "; ".join(f"{family}: {listed(s)}" for family, s in sorted(families.items()))
        files = _files([source for each in families.values() for source in each], of)
        fact = f"sources{of} disagree: {said}"
        yield from refusals("licence.contradiction", files, fact, _ASK)
    elif not families and (nothing := _nothing(reading, of)):
        yield nothing
    elif not families:
        return
    else:
        yield from _doubts(next(iter(families)), reading, of)


def _files(sources: Iterable[str], of: str) -> list[str]:
    """The files that sources name ('README.md:license' is in README.md), or '' for none.

    The files of an ancestor lie elsewhere, and some sources (a hub's own tag) are no file.
    """
    places = [source.partition(":")[0].partition(" (")[0] for source in sources]
    return sorted({place for place in places if not of and _FILE.fullmatch(place)}) or [""]


def _absent_texts(subject: Subject, reading: _Reading, of: str) -> Iterator[Finding]:
    """The texts of an ancestor lie with the ancestor, whose own verification judged them."""
    for source in reading.absent_texts:
        if subject.name:
            fact = f"this text{of} lies with that model's own evidence"
            yield warning("licence.text-elsewhere", source, fact, "Read it there.")
        else:
            fact = "the manifest names this licence text, and it is not here"
            yield refusal("licence.text-missing", source, fact, "Ingest the model again.")


def _expression(reading: _Reading, of: str) -> Iterator[Finding]:
    """An expression names several families; every other claim must be about one of them."""
    expressed, expressions = reading.expressed(), reading.by_expression
    said = listed(source for sources in expressions.values() for source in sources)
    if len(expressions) > 1:
        yield refusal("licence.contradiction", "", f"expressions{of} disagree: {said}", _ASK)
    named = [
        *reading.generic.items(),
        *((frozenset({f}), s) for f, s in reading.families().items()),
    ]
    for some, sources in named:
        if not some & expressed:
            fact = f"{listed(sources)}{of} says {_either(some)}, which {said} does not name"
            about = [*sources, *(s for each in expressions.values() for s in each)]
            yield from refusals("licence.contradiction", _files(about, of), fact, _ASK)
    for family, sources in sorted(reading.by_title.items()):
        fact = f"the text{of} calls itself {family} and has other words"
        yield refusal("licence.altered-text", _first(sources), fact, "Read it.")
    if reading.says_other:
        fact = f"{listed(reading.says_other)}{of} and {said}"
        yield refusal("licence.contradiction", "", fact, _ASK)
    if not reading.by_text and not reading.absent_texts:
        fact = f"{said}{of} is named, and its texts are not here"
        yield warning("licence.text-absent", "", fact, "Keep the texts beside the weights.")


def _nothing(reading: _Reading, of: str) -> Finding | None:
    """Why the claims lead nowhere; None where an unknown name or text was refused already."""
    if reading.says_other:
        fact = f"{listed(reading.says_other)}{of} names no licence, and no known text comes with it"
        remedy = (
            "Have the publisher's licence text in the repository; a name alone decides nothing."
        )
        return refusal("licence.other", "", fact, remedy)
    if reading.generic:
        said = [source for sources in reading.generic.values() for source in sources]
        fact = f"{listed(said)}{of} says no version, and there is no text"
        return refusal("licence.unknown", "", fact, _ASK)
    if reading.unknown or reading.unknown_texts or reading.empty_texts:
        return None
    remedy = "Without a licence nobody may use the weights; ask the publisher for one."
    return refusal("licence.absent", "", f"no licence{of} was found", remedy)


def _doubts(family: str, reading: _Reading, of: str) -> Iterator[Finding]:
    """One family was found; what else was said must fit it."""
    exact, title = reading.by_text.get(family), reading.by_title.get(family)
    hinted = [*reading.generic.items(), *((frozenset({f}), s) for f, s in reading.hints.items())]
    for some, sources in hinted:
        if family not in some:
            fact = f"{listed(sources)}{of} points to {_either(some)}, the rest to {family}"
            yield refusal("licence.contradiction", "", fact, _ASK)
    if reading.says_other and not exact:
        fact = f"{listed(reading.says_other)}{of}: only the exact text of a licence could decide"
        yield refusal("licence.other", "", fact, _ASK)
    if title and (family in _EXACT_ONLY or not (exact or reading.by_tag)):
        fact = f"the text{of} calls itself {family} and has other words"
        yield refusal(
            "licence.altered-text", _first(title), fact, "Read it; it is another licence."
        )
    elif title:
        fact = f"the text{of} was recognised as {family} by its title only"
        yield warning("licence.text-by-title", _first(title), fact, "Compare it with the original.")
    elif not exact and not reading.absent_texts:
        fact = f"{family}{of} is named, and its text is not here"
        yield warning("licence.text-absent", "", fact, "Keep the text beside the weights.")


def _either(families: Iterable[str]) -> str:
    return " or ".join(sorted(families))


def _first(sources: Iterable[str]) -> str:
    return next(iter(sources))
