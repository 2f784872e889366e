"""Which licence a text is: by the digest of its words, so that layout and holders do not count.

Words are what decides; case, punctuation, line breaks, addresses and copyright lines are not. A
text with one word more or less is another text. Apache-2.0 may come with its usual heading and
appendix, MIT with its usual heading, and nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.canonical import sha256_bytes

MAX_TEXT_CHARACTERS = 2_000_000
_TITLE_WORDS = 40  # a licence names itself within its first words
_ADDRESS = re.compile(r"https?://\S+|www\.\S+")
_COPYRIGHT_LINE = re.compile(
    r"^[\W_]*(portions )?(copyright|©|\(c\))\s*((\(c\)|©|,|by|\d{4}|[\[<{(]?(yyyy|year)\b).*)?$"
    r"|^\W*all rights reserved\W*$"
)
_WORD = re.compile(r"[a-z0-9]+")

_APACHE_TITLE = re.compile(r"(the )?(apache license( version)? 2 0( january 2004)? )?")
_APACHE_START = "terms and conditions for use reproduction and distribution 1 definitions"
_APACHE_END = "accepting any such warranty or additional liability"
_APACHE_REST = re.compile(
    r"( end of terms and conditions)?(( appendix)? how to apply the apache license to your work "
    r"to apply the apache license to your work attach the following boilerplate notice "
    r".{0,600}? licensed under the apache license "
    r"version 2 0 .{0,600}? limitations under the license)?"
)
_MIT_TITLE = re.compile(
    r"((released under |this is )?(the )?(expat )?mit licen[cs]e( mit| expat)? )?"
)
_MIT_START = "permission is hereby granted free of charge to any person obtaining a copy"


@dataclass(frozen=True)
class Identified:
    """`exact`: the words are those of a known text; otherwise only the title was recognised."""

    family: str
    exact: bool


def normalise(text: str) -> str:
    """The words of a licence text, lower case, joined by single spaces; the core of known forms."""
    folded = unicodedata.normalize("NFKC", text[:MAX_TEXT_CHARACTERS]).lower()
    lines = (_ADDRESS.sub(" ", line) for line in folded.splitlines())
    kept = "\n".join(line for line in lines if not _COPYRIGHT_LINE.match(line.strip()))
    words = " ".join(_WORD.findall(kept))
    return _apache_core(words) or _mit_core(words) or words


def text_digest(text: str) -> str:
    """sha256 of the normalised words."""
    return sha256_bytes(normalise(text).encode())


def identify(text: str, digests: Mapping[str, str], titles: Mapping[str, str]) -> Identified | None:
    """The family of a text by its digest, else by a title near its start, else None.

    `digests` maps normalised digests and `titles` normalised titles to families; the longest title
    wins, because some names are part of others.
    """
    if family := digests.get(text_digest(text)):
        return Identified(family, exact=True)
    words = _WORD.findall(unicodedata.normalize("NFKC", text[:MAX_TEXT_CHARACTERS]).lower())
    opening = f" {' '.join(words[:_TITLE_WORDS])} "
    for title in sorted(titles, key=len, reverse=True):
        if f" {title} " in opening:
            return Identified(titles[title], exact=False)
    return None


def _apache_core(words: str) -> str:
    """The terms of Apache-2.0 between usual heading and appendix, or '' if more stands around."""
    start, end = words.find(_APACHE_START), words.find(_APACHE_END)
    if start < 0 or end < start:
        return ""
    heading, rest = words[:start], words[end + len(_APACHE_END) :]
    usual = _APACHE_TITLE.fullmatch(heading) and _APACHE_REST.fullmatch(rest)
    return words[start : end + len(_APACHE_END)] if usual else ""


def _mit_core(words: str) -> str:
    start = words.find(_MIT_START)
    return words[start:] if start >= 0 and _MIT_TITLE.fullmatch(words[:start]) else ""
