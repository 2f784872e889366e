"""Redaction: what looks like a person's or a company's secret, replaced before text leaves.

Rules find forms, not meanings: an address is found because it looks like one. Numbers with a check
digit (IBAN, cards) are replaced only when it holds, so that order numbers stay.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.canonical import canonical_json
from pipelines.secret_patterns import SECRET_PATTERNS

if TYPE_CHECKING:
    from pipelines.batch.rows import Row

if TYPE_CHECKING:
    from pipelines.batch.rows import Row

Confirm = Callable[[str], bool]


def _iban_holds(text: str) -> bool:
    """ISO 13616: with the first four characters moved to the end, the number is 1 modulo 97."""
    packed = re.sub(r"\s", "", text).upper()
    moved = packed[4:] + packed[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _luhn_holds(text: str) -> bool:
    """ISO/IEC 7812-1: digits doubled from the right, every second one, add up to 0 modulo 10."""
    digits = [int(character) for character in text if character.isdigit()]
    total = sum(
        digit if place % 2 == 0 else (digit * 2 - 9 if digit > 4 else digit * 2)
        for place, digit in enumerate(reversed(digits))
    )
    return len(set(digits)) > 1 and total % 10 == 0


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return text != "::"


def _enough_digits(text: str) -> bool:
    """E.164: at most 15 digits. National forms need 9: 01.02.2024 is a date."""
    least = 8 if text.startswith(("+", "00")) else 9
    return least <= sum(character.isdigit() for character in text) <= 15


def _always(text: str) -> bool:
    return True


# In the order in which they are applied: a card number must not be taken for a phone number.
_BUILT_IN: Mapping[str, tuple[str, Confirm]] = {
    "secret": ("|".join(f"(?:{pattern})" for pattern in SECRET_PATTERNS), _always),
    "email": (
        r"[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}\b",
        _always,
    ),
    "iban": (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _iban_holds),
    "card": (r"\b\d(?:[ \-]?\d){12,18}\b", _luhn_holds),
    "ip": (
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![\w:])",
        _is_address,
    ),
    "phone": (r"(?<![\w.\-])(?:\+|00|\(?0)\d(?:[ ()/.\-]{0,2}\d){6,14}(?![\w\-])", _enough_digits),
}
BUILT_IN_RULES = tuple(_BUILT_IN)


class Redactor:
    """Replaces what some rules find by the rule's name in brackets, and counts it."""

    def __init__(self, rules: Sequence[str], patterns: Mapping[str, str]) -> None:
        """`rules` are built-in ones or names of `patterns`; the built-in ones come first."""
        chosen = [name for name in _BUILT_IN if name in rules]
        chosen += [name for name in patterns if name in rules]
        self.names = tuple(sorted(chosen))
        self.names = tuple(sorted(chosen))
        self._rules = [
            (name, re.compile(form), confirm)
            for name in chosen
            for form, confirm in [_BUILT_IN.get(name) or (patterns[name], _always)]
        ]

    def text(self, text: str, counts: Counter[str]) -> str:
        """`text` without what the rules find; `counts` grows by the number of each."""
        for name, form, confirm in self._rules:

            def replace(found: re.Match[str], name: str = name, confirm: Confirm = confirm) -> str:
                if not confirm(found.group()):
                    return found.group()
                counts[name] += 1
                return f"[{name}]"

            text = form.sub(replace, text)
        return text

    def row(self, row: Row, counts: Counter[str]) -> Row:
        """A row whose answer, raw text and error message are redacted; all else stays.

        Keys of a JSON answer stay too: they come from the job's schema. A value that is replaced is
        still a text, and may be longer than the schema allows.
        """
        if not self._rules:
            return row
        changes: dict[str, Any] = {"raw_text": self.text(row.raw_text, counts)}
        if row.output is not None:
            value = self._value(json.loads(row.output), Counter())
            changes["output"] = canonical_json(value).decode()
        if row.error_message is not None:
            changes["error_message"] = self.text(row.error_message, counts)
        return row.model_copy(update=changes)

    def _value(self, value: Any, counts: Counter[str]) -> Any:
        if isinstance(value, str):
            return self.text(value, counts)
        if isinstance(value, list):
            return [self._value(item, counts) for item in value]
        if isinstance(value, dict):
            return {key: self._value(item, counts) for key, item in value.items()}
        return value
