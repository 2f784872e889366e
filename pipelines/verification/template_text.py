"""Texts inside a template that hide what they say: other alphabets, encodings, look-alikes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from pipelines.verification.findings import quoted
from pipelines.verification.tokenizer_tokens import looks_like_another

_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
_FULL_WIDTH = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]{2,}")
_BASE64 = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{32,}={0,2}(?![\w+/=])")
_HEX = re.compile(r"(?<![\w])(?:[0-9a-fA-F]{2}){16,}(?![\w])")
_URL = re.compile(r"(https?|ftp|file|data)://?|www\.\w", re.IGNORECASE)


def judge_words(text: str, line: int) -> Iterator[tuple[str, str]]:
    """(rule, fact) for one literal text of a template."""
    if match := _URL.search(text):
        found = text[max(0, match.start() - 10) : match.start() + 50]
        yield "template.address", f"line {line}: the address {quoted(found)}"
    if match := _INVISIBLE.search(text):
        yield "template.invisible", f"line {line}: the invisible character {quoted(match[0])}"
    elif match := _FULL_WIDTH.search(text):
        yield "template.invisible", f"line {line}: the wide letters {quoted(match[0])}"
    else:
        odd = next((w for w in re.findall(r"[^\W\d_]+", text) if looks_like_another(w)), None)
        if odd is not None:
            fact = f"line {line}: {quoted(odd)} has letters that look like others"
            yield "template.invisible", fact
    if found := _encoded(text):
        yield "template.encoded", f"line {line}: the encoded text {quoted(found)}"


def _encoded(text: str) -> str:
    """A run of base64 or hexadecimal that decodes to readable text, or nothing."""
    for match in _HEX.finditer(text):
        if _is_readable(bytes.fromhex(match[0])):
            return match[0]
    for match in _BASE64.finditer(text):
        try:
            if _is_readable(base64.b64decode(match[0] + "=" * (-len(match[0]) % 4))):
                return match[0]
        except (binascii.Error, ValueError):
            continue
    return ""


def _is_readable(data: bytes) -> bool:
    return len(data) > 12 and all(32 <= byte < 127 or byte in b"\n\t" for byte in data)
