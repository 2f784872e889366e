"""Making findings: the fact, the remedy, and untrusted text shown safely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipelines.records import Finding, Severity

REFETCH = "Fetch the file again from its publisher, at the pinned revision."
_ORDER: dict[Severity, int] = {"refusal": 0, "waived": 1, "warning": 2, "info": 3}


def refusal(rule: str, file: str, fact: str, remedy: str = REFETCH) -> Finding:
    """A fact that keeps these weights out."""
    return Finding(rule=rule, severity="refusal", file=printable(file), fact=fact, remedy=remedy)


def refusals(
    rule: str, files: Iterable[str], fact: str, remedy: str = REFETCH
) -> Iterator[Finding]:
    """A contradiction between files, as a refusal of each: nothing says which of them lies."""
    for file in dict.fromkeys(files):
        yield refusal(rule, file, fact, remedy)


def warning(rule: str, file: str, fact: str, remedy: str) -> Finding:
    """A fact that a person should look at, and that does not decide."""
    return Finding(rule=rule, severity="warning", file=printable(file), fact=fact, remedy=remedy)


def info(rule: str, file: str, fact: str, remedy: str = "Nothing to do.") -> Finding:
    """A fact worth keeping."""
    return Finding(rule=rule, severity="info", file=printable(file), fact=fact, remedy=remedy)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Refusals first, then by rule, file and fact: the same set always reads the same."""
    unique = {finding.model_dump_json(): finding for finding in findings}
    return tuple(
        sorted(unique.values(), key=lambda f: (_ORDER[f.severity], f.rule, f.file, f.fact))
    )


def printable(text: str) -> str:
    """Text of unknown origin as UTF-8 can carry it, control characters and surrogates escaped."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def quoted(value: object, limit: int = 80) -> str:
    """A value of unknown origin in ASCII with quotes, at most `limit` characters of it."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Some names and how many more there are."""
    some = list(names)
    shown = ", ".join(quoted(name) for name in some[:limit])
    return shown if len(some) <= limit else f"{shown} and {len(some) - limit} more"


def words(text: str) -> frozenset[str]:
    """The words of a text, for rules that are lists of words."""
    return frozenset(text.split())
