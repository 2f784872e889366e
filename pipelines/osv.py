"""Advisories in the OSV format, and which versions of a package they are about.

Format and the rule of evaluation: OSV schema 1.7, ossf.github.io/osv-schema, sections "affected"
and "Evaluation". Names are compared by PEP 503, versions by `packaging`. Where a version cannot be
read, the package counts as affected: what is not known does not pass.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pipelines.canonical import Frozen
from pipelines.cvss import base_score

Level = Literal["none", "low", "medium", "high", "critical", "unknown"]
ECOSYSTEM = "PyPI"
LEVELS: tuple[Level, ...] = ("none", "low", "medium", "high", "critical", "unknown")
_WORDS: dict[str, Level] = {"LOW": "low", "MODERATE": "medium", "MEDIUM": "medium",
                            "HIGH": "high", "CRITICAL": "critical"}  # fmt: skip
_MAX_SUMMARY = 200
_ENDS = {"fixed": operator.ge, "last_affected": operator.gt}
_LOWEST = Version("0.dev0")  # what "0" means: before every version


class Match(Frozen):
    """One fault of one package at one version, under all the names that it goes by."""

    package: str
    version: str
    ids: tuple[str, ...]
    severity: Level
    fixed_in: tuple[str, ...]
    summary: str


def matches(
    advisories: Iterable[Mapping[str, Any]], packages: Mapping[str, Sequence[str]]
) -> list[Match]:
    """Advisories about these packages (PEP 503 name to versions), aliases merged.

    Withdrawn advisories are left out. The order is by package, version and first id.
    """
    hits: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for advisory in advisories:
        if advisory.get("withdrawn"):
            continue
        names = {name for affected in _affected(advisory) if (name := _name(affected)) in packages}
        for name in names:
            for version in packages[name]:
                if is_affected(advisory, name, version):
                    hits.setdefault((name, version), []).append(advisory)
    found = [
        _match(name, version, group)
        for (name, version), listed in hits.items()
        for group in _merged(listed)
    ]
    return sorted(found, key=lambda match: (match.package, match.version, match.ids))


def is_affected(advisory: Mapping[str, Any], package: str, version: str) -> bool:
    """Whether an advisory is about this version of a package (a PEP 503 name)."""
    parsed = _version(version)
    for affected in _affected(advisory):
        if _name(affected) != package:
            continue
        if any(_same(listed, version, parsed) for listed in affected.get("versions") or ()):
            return True
        for span in affected.get("ranges") or ():
            if span.get("type") == "ECOSYSTEM" and _in_range(parsed, span.get("events") or ()):
                return True
    return False


def severity(advisory: Mapping[str, Any]) -> Level:
    """The worst that an advisory says of itself: a word of its database, or a CVSS 3 vector."""
    levels: list[Level] = []
    sources = [advisory, *_affected(advisory)]
    for source in sources:
        for item in source.get("severity") or ():
            score = base_score(str(item.get("score", "")))
            if score is not None:
                levels.append(_level(score))
        own = source.get("database_specific")
        word = own.get("severity") if isinstance(own, dict) else None
        if isinstance(word, str) and word.upper() in _WORDS:
            levels.append(_WORDS[word.upper()])
    return max(levels, key=LEVELS.index) if levels else "unknown"


def _affected(advisory: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [item for item in advisory.get("affected") or () if isinstance(item, dict)]


def _name(affected: Mapping[str, Any]) -> str:
    """The PEP 503 name of an affected package of PyPI, or ''."""
    package = affected.get("package") or {}
    if str(package.get("ecosystem", "")).partition(":")[0] != ECOSYSTEM:
        return ""
    return canonicalize_name(str(package.get("name", "")))


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _same(listed: str, version: str, parsed: Version | None) -> bool:
    """Equal as written or as versions; a local label (+cpu) is no other version."""
    if listed == version:
        return True
    other = _version(listed)
    if parsed is None or other is None:
        return False
    return Version(other.public) == Version(parsed.public)


def _in_range(version: Version | None, events: Sequence[Mapping[str, str]]) -> bool:
    """The evaluation of the OSV schema; events of one version count in the order they are given."""
    bounds = [(kind, text) for event in events for kind, text in event.items()]
    parsed = [(kind, None if text in ("0", "*") else _version(text)) for kind, text in bounds]
    unreadable = any(v is None and text not in ("0", "*")
                     for (_, text), (_, v) in zip(bounds, parsed, strict=True))  # fmt: skip
    if version is None or unreadable:
        return bool(bounds)
    limits = [v for kind, v in parsed if kind == "limit" and v is not None]
    if limits and version >= max(limits):
        return False
    affected = False
    for kind, bound in sorted(parsed, key=lambda event: event[1] or _LOWEST):
        if kind == "introduced" and version >= (bound or _LOWEST):
            affected = True
        elif bound is not None and kind in _ENDS and _ENDS[kind](version, bound):
            affected = False
    return affected


def _merged(advisories: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Groups of advisories that share an id or an alias, directly or through another."""
    groups: list[tuple[set[str], list[Mapping[str, Any]]]] = []
    for advisory in advisories:
        names, members = _names(advisory), [advisory]
        apart = []
        for other_names, others in groups:
            if names & other_names:
                names |= other_names
                members = others + members
            else:
                apart.append((other_names, others))
        groups = [*apart, (names, members)]
    for _, members in groups:
        yield members


def _names(advisory: Mapping[str, Any]) -> set[str]:
    return {str(advisory["id"]), *(str(alias) for alias in advisory.get("aliases") or ())}


def _match(package: str, version: str, group: Sequence[Mapping[str, Any]]) -> Match:
    ids = {name for advisory in group for name in _names(advisory)}
    known = [level for advisory in group if (level := severity(advisory)) != "unknown"]
    summaries = [str(a["summary"]) for a in group if a.get("summary")]
    return Match(
        package=package,
        version=version,
        ids=tuple(sorted(ids, key=lambda name: (not name.startswith("CVE-"), name))),
        severity=max(known, key=LEVELS.index) if known else "unknown",
        fixed_in=tuple(sorted(_fixes(package, group), key=lambda text: (_version(text) is None,
                       _version(text) or Version("0"), text))),
        summary=" ".join((summaries[0] if summaries else "").split())[:_MAX_SUMMARY],
    )  # fmt: skip


def _fixes(package: str, group: Iterable[Mapping[str, Any]]) -> set[str]:
    return {
        str(event["fixed"])
        for advisory in group
        for affected in _affected(advisory)
        if _name(affected) == package
        for span in affected.get("ranges") or ()
        if span.get("type") == "ECOSYSTEM"
        for event in span.get("events") or ()
        if "fixed" in event
    }


def _level(score: float) -> Level:
    """The qualitative rating of CVSS 3.1, section 5."""
    if score <= 0:
        return "none"
    if score < 4:
        return "low"
    if score < 7:
        return "medium"
    return "high" if score < 9 else "critical"
