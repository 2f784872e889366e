"""From a document's bytes to its text, or to the reason why there is none."""

from __future__ import annotations

from html.parser import HTMLParser

from pipelines.batch.records import ErrorClass

_SILENT = {"head", "script", "style", "template", "noscript", "svg"}
_INLINE = {
    "a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i",
    "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub",
    "sup", "time", "tt", "u", "var", "wbr",
}  # fmt: skip


class DocumentError(Exception):
    """A document that becomes an error row; never leaves this package."""

    def __init__(self, error_class: ErrorClass, fact: str) -> None:
        super().__init__(fact)
        self.error_class: ErrorClass = error_class


def decode(data: bytes) -> str:
    """Strict UTF-8, a byte-order mark dropped; raises DocumentError for anything else."""
    if b"\0" in data:
        raise DocumentError("not_text", f"a zero byte at {data.index(0)}: not a text file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(
            "invalid_utf8", f"byte {data[error.start]:#04x} at {error.start} is not UTF-8"
        ) from error


def check_text(text: str) -> str:
    """`text` if UTF-8 can carry it: JSON can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(
            "not_text", f"half a surrogate pair at character {error.start}"
        ) from error
    return text


def not_empty(text: str) -> str:
    """`text` if there is more than white space in it."""
    if not text or text.isspace():
        raise DocumentError("empty", "no text in it")
    return text


def printable(text: str) -> str:
    """`text` as UTF-8 can carry it: halves of surrogate pairs are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def html_text(markup: str) -> str:
    """The visible text of an HTML page: blocks on their own lines, scripts and styles left out."""
    parser = _VisibleText()
    parser.feed(markup)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)


class _VisibleText(HTMLParser):
    """Collects character data; line breaks stand where a block begins or ends."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: list[str] = []
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":  # whatever was left open in the head ends here
            self._silent.clear()
        if tag in _SILENT:
            self._silent.append(tag)
        self._preformatted += tag == "pre"
        self._block(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        self._preformatted -= tag == "pre" and self._preformatted > 0
        self._block(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data if self._preformatted else data.replace("\n", " "))

    def _block(self, tag: str) -> None:
        if tag not in _INLINE:
            self.parts.append("\n")
