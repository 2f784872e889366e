"""SPDX expressions: which licences one may choose from, and which hold together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_OPERATOR = re.compile(r"(^|[\s)])(and|or|with)([\s(]|$)", re.IGNORECASE)
MAX_CHARACTERS = 500
# An exception only gives more rights; these were read, others are unknown.
_EXCEPTIONS = frozenset({("apache-2.0", "llvm-exception")})

Options = tuple[frozenset[str], ...]


def is_expression(text: str) -> bool:
    """Whether a licence tag joins several names with AND, OR or WITH."""
    return _OPERATOR.search(text) is not None


def options(text: str, families: Mapping[str, str]) -> Options:
    """The choices that an expression leaves, each a set of families that all hold.

    `families` maps lower-case identifiers to families. A choice with an unknown licence in it is
    left out, since nobody has to choose it; none is left where the expression cannot be read.
    """
    from license_expression import ExpressionError, Licensing

    if len(text) > MAX_CHARACTERS:
        return ()
    try:
        parsed = Licensing().parse(text.strip())
    except (ExpressionError, IndexError, TypeError):  # the last two are boolean.py's
        return ()
    found = _choices(parsed, families) if parsed is not None else []
    return tuple(sorted(dict.fromkeys(found), key=sorted))


def _choices(node: Any, families: Mapping[str, str]) -> list[frozenset[str]]:
    arguments = getattr(node, "args", ())
    if node.__class__.__name__ == "LicenseWithExceptionSymbol":
        pair = (str(node.license_symbol.key).lower(), str(node.exception_symbol.key).lower())
        family = families.get(pair[0]) if pair in _EXCEPTIONS else None
        return [frozenset({family})] if family else []
    if not arguments:
        family = families.get(str(node.key).lower())
        return [frozenset({family})] if family else []
    parts = [_choices(argument, families) for argument in arguments]
    if node.__class__.__name__ == "OR":
        return [choice for part in parts for choice in part]
    joined = [frozenset[str]()]
    for part in parts:
        joined = list(dict.fromkeys(left | right for left in joined for right in part))
    return joined
