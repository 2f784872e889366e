"""Which licence a text is: by the digest of its words, so that layout and holders do not count.

Words are what decides; case, punctuation, line breaks, addresses and copyright lines are not. A
text with one word more or less is another text. Apache-2.0 may come with its usual heading and
appendix, MIT and BSD with their usual heading and any holder's name, and nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser

from pipelines.canonical import sha256_bytes

MAX_TEXT_CHARACTERS = 2_000_000
_TITLE_WORDS = 40  # a licence names itself within its first words
_ADDRESS = re.compile(r"https?://\S+|www\.\S+")
_COPYRIGHT_LINE = re.compile(
    r"^[\W_]*(portions )?(copyright|©|\(c\))\s*((\(c\)|©|,|by|\d{4}|[\[<{(]?(yyyy|year)\b).*)?$"
    r"|^\W*all rights reserved\W*$"
)
_WORD = re.compile(r"[a-z0-9]+")
_PAGE = re.compile(r"\s*(<\?xml[^>]*>\s*)?(<!doctype html|<html)", re.IGNORECASE)
_HIDDEN_TAGS = ("script", "style", "head", "noscript", "template")

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
_BSD_TITLE = re.compile(
    r"((the )?(new |modified |simplified |revised )?(bsd )?([23] clause )?(new or revised )?"
    r"(simplified )?(bsd )?licen[cs]e )?(all rights reserved )?"
)
_BSD_START = "redistribution and use in source and binary forms with or without modification"
_BSD_NUMBERS = re.compile(r" (1|2|3|a|b|c|i|ii|iii)(?= (redistributions|neither|the name))")
_BSD_HOLDER = re.compile(
    r"(?<= neither the name of ).{1,200}?(?= may be used to endorse or promote products derived)"
)
_BSD_PARTIES = re.compile(
    r"(?<= this software is provided by )(the )?[a-z0-9 ]{1,80}? as is(?= and any express)"
    r"|(?<= in no event shall )(the )?[a-z0-9 ]{1,80}?(?= be liable for any direct)"
)


@dataclass(frozen=True)
class Identified:
    """`exact`: the words are those of a known text; otherwise only the title was recognised."""

    family: str
    exact: bool


def normalise(text: str) -> str:
    """The words of a licence text, lower case, joined by single spaces; the core of known forms."""
    folded = unicodedata.normalize("NFKC", _without_markup(text[:MAX_TEXT_CHARACTERS])).lower()
    lines = (_ADDRESS.sub(" ", line) for line in folded.splitlines())
    kept = "\n".join(line for line in lines if not _COPYRIGHT_LINE.match(line.strip()))
    words = " ".join(_WORD.findall(kept))
    return _apache_core(words) or _mit_core(words) or _bsd_core(words) or words


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
    visible = _without_markup(text[:MAX_TEXT_CHARACTERS])
    words = _WORD.findall(unicodedata.normalize("NFKC", visible).lower())
    opening = f" {' '.join(words[:_TITLE_WORDS])} "
    for title in sorted(titles, key=len, reverse=True):
        if f" {title} " in opening:
            return Identified(titles[title], exact=False)
    return None


class _Visible(HTMLParser):
    """The text of a web page that a reader sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in _HIDDEN_TAGS
        self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in _HIDDEN_TAGS and self._hidden > 0
        self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _without_markup(text: str) -> str:
    """The visible text of an HTML page; any other text as it is."""
    if not _PAGE.match(text):
        return text
    page = _Visible()
    page.feed(text)
    page.close()
    return "".join(page.parts)


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


def _bsd_core(words: str) -> str:
    """The terms of a BSD licence, with no clause numbers and no holders' names, or ''."""
    start = words.find(_BSD_START)
    if start < 0 or not _BSD_TITLE.fullmatch(words[:start]):
        return ""
    core = _BSD_NUMBERS.sub("", words[start:])
    return _BSD_PARTIES.sub("holders", _BSD_HOLDER.sub("holders", core))
