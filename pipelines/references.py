"""References: where weights come from, and the names that models go by."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote, unquote

from pipelines.canonical import Frozen
from pipelines.errors import BadName, BadReference

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]*[a-z0-9]")
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")
COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")
_PYPI = re.compile(r"(?P<where>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<revision>[A-Za-z0-9.+!]+)")
_HUB = re.compile(r"(?P<where>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OLLAMA = re.compile(r"(?P<where>([\w.-]+(:\d+)?)?/([\w.-]+/)?[\w.-]+)(:(?P<revision>[\w.-]+))?")
_JOINTS = {"pypi": "==", "hf": "@", "file": "", "s3": "", "ollama": ":"}


class Reference(Frozen):
    """A parsed reference; `pin` is the digest that a moving source was resolved to, or ''.

    The pin is the wheel's sha256 (pypi), the manifest's (ollama), or the weight digest of what is
    taken (file, s3). hf needs none: a commit names its files.
    """

    scheme: Literal["pypi", "file", "hf", "s3", "ollama"]
    where: str
    revision: str = ""
    pin: str = ""

    @property
    def resolved(self) -> bool:
        """Whether this reference can only ever mean one set of bytes."""
        if self.scheme == "hf":
            return COMMIT_PATTERN.fullmatch(self.revision) is not None
        return bool(self.pin)

    def __str__(self) -> str:
        pin = f"#sha256={self.pin}" if self.pin else ""
        where = quote(self.where) if self.scheme in ("file", "s3") else self.where
        return f"{self.scheme}://{where}{_JOINTS[self.scheme]}{self.revision}{pin}"


def parse_reference(text: str) -> Reference:
    """Parse a reference; raises BadReference with what is wrong about it."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise BadReference(text, "it has no scheme")
    rest, _, fragment = rest.partition("#")
    pin = _parse_pin(text, fragment)
    if scheme == "file":
        where = unquote(rest)
        if not where.startswith("/"):
            raise BadReference(text, "a file reference needs an absolute path (file:///…)")
        return Reference(scheme="file", where=where, pin=pin)
    if scheme == "pypi":
        if match := _PYPI.fullmatch(rest):
            return Reference(scheme="pypi", pin=pin, **match.groupdict())
        raise BadReference(text, "it needs a distribution and an exact version")
    if scheme == "hf":
        if match := _HUB.fullmatch(rest):
            return Reference(scheme="hf", pin=pin, **match.groupdict())
        raise BadReference(text, "it needs organisation/name@revision")
    if scheme == "s3":
        where = unquote(rest).rstrip("/")
        if not _BUCKET.fullmatch(where.partition("/")[0]):
            raise BadReference(text, "it needs a bucket and a prefix (s3://bucket/prefix)")
        return Reference(scheme="s3", where=where, pin=pin)
    if scheme == "ollama":
        if match := _OLLAMA.fullmatch(rest):
            tag = match["revision"] or "latest"
            return Reference(scheme="ollama", where=match["where"], revision=tag, pin=pin)
        raise BadReference(text, "it needs host/name:tag, or /name:tag for the local store")
    raise BadReference(text, f"the scheme {scheme!r} is not known")


def _parse_pin(text: str, fragment: str) -> str:
    if not fragment:
        return ""
    key, _, value = fragment.partition("=")
    if key != "sha256" or not SHA256_PATTERN.fullmatch(value):
        raise BadReference(text, "after '#' only sha256=<64 hex digits> may stand")
    return value


def check_name(name: str) -> str:
    """Return `name` if models.yaml, DVC and GTO can all carry it; raises BadName otherwise."""
    if not NAME_PATTERN.fullmatch(name):
        raise BadName(name)
    return name
