"""The process that reads PDF and Word documents: bytes in, text or the name of an error out.

Started by `extraction` with limits and without a network. One message is four bytes of length and
that many bytes: a request is the suffix, a newline and the file; an answer is JSON.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from typing import BinaryIO
from xml.etree.ElementTree import ParseError

LENGTH = struct.Struct("<Q")
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


class Unusable(Exception):
    """A document without text; the arguments are the error class and the fact."""


def pdf_text(data: bytes) -> str:
    """The text layer, pages separated by a blank line."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unusable("encrypted", "a PDF that needs a password")
        pages = [page.extract_text().strip() for page in reader.pages]
    except PyPdfError as error:
        raise Unusable("broken_file", f"not a whole PDF ({error})") from error
    text = "\n\n".join(page for page in pages if page)
    if not text:
        raise Unusable("no_text_layer", f"a PDF of {len(pages)} pages without text in it")
    return text


def docx_text(data: bytes, max_bytes: int) -> str:
    """Paragraphs and table cells in the order of the body, one a line."""
    from docx import Document
    from docx.opc.exceptions import OpcError

    if data.startswith(b"\xd0\xcf\x11\xe0"):  # OLE: Word's older format, or an encrypted package
        raise Unusable("encrypted", "a Word document with a password, or of Word 97 to 2003")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            size = sum(entry.file_size for entry in package.infolist())
        if size > max_bytes:
            raise Unusable("too_large", f"{size} bytes when unpacked, more than {max_bytes}")
        body = Document(io.BytesIO(data)).element.body
    except (zipfile.BadZipFile, OpcError, ParseError, SyntaxError, KeyError) as error:
        raise Unusable("broken_file", f"not a whole Word document ({error})") from error
    lines = []
    for paragraph in body.iter(f"{_WORD}p"):
        runs = paragraph.iter(f"{_WORD}t", f"{_WORD}tab", f"{_WORD}br")
        lines.append("".join(_run(run.tag, run.text) for run in runs))
    return "\n".join(lines)


def _run(tag: str, text: str | None) -> str:
    return {f"{_WORD}tab": "\t", f"{_WORD}br": "\n"}.get(tag, text or "")


def answer(request: bytes, max_bytes: int) -> dict[str, str]:
    """What the parent is told; whatever a parser raises is about the document."""
    suffix, _, data = request.partition(b"\n")
    try:
        text = pdf_text(data) if suffix == b".pdf" else docx_text(data, max_bytes)
    except Unusable as error:
        return {"error": error.args[0], "fact": error.args[1]}
    except MemoryError:
        return {"error": "extraction_failed", "fact": "needs more memory than a document may take"}
    except RecursionError:
        return {"error": "broken_file", "fact": "nested too deeply"}
    except Exception as error:  # noqa: BLE001 - a row's failure becomes an error row
        return {"error": "broken_file", "fact": f"{type(error).__name__}: {error}"}
    if len(text) > max_bytes:
        return {"error": "too_large", "fact": f"{len(text)} characters of text"}
    return {"text": text.encode("utf-8", "replace").decode()}


def read_message(stream: BinaryIO) -> bytes | None:
    """The next message, None at the end."""
    head = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def main() -> None:
    max_bytes = int(sys.argv[1])
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print must not garble answers
    while (request := read_message(sys.stdin.buffer)) is not None:
        reply = json.dumps(answer(request, max_bytes)).encode()
        answers.write(LENGTH.pack(len(reply)) + reply)
        answers.flush()


if __name__ == "__main__":
    main()
