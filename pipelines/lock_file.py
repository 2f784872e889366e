"""Lock files as pip and uv write them: which package at which version."""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.errors import ConfigError, WrongKindOfPath

_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*===?\s*(?P<version>[^\s;\\#,]+)"
    r"\s*(?P<rest>[;\\#].*)?"
)
_REMEDY = "Pin it as name==version (`make lock` writes such a file)."


def read_lock(path: Path) -> dict[str, tuple[str, ...]]:
    """PEP 503 names to the versions that the lock names: several where markers choose.

    Raises WrongKindOfPath when there is no file, ConfigError naming a line that pins nothing.
    """
    from packaging.utils import canonicalize_name

    if not path.is_file():
        raise WrongKindOfPath(path, "a lock file (name==version lines)")
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(("#", "--")):
            continue
        pin = _PIN.fullmatch(text)
        if pin is None:
            raise ConfigError(path, f"line {number} pins no version: {text[:80]!a}", _REMEDY)
        name = canonicalize_name(pin["name"])
        found[name] = tuple(dict.fromkeys((*found.get(name, ()), pin["version"])))
    if not found:
        raise ConfigError(path, "it pins nothing", _REMEDY)
    return found
