"""PDF and Word files for tests, small and real."""

from __future__ import annotations

import io
import zipfile

from docx import Document
from pypdf import PdfWriter
from pypdf.generic import (
    DecodedStreamObject,
    DictionaryObject,
    NameObject,
)


def make_pdf(text: str, password: str = "") -> bytes:
    """One page with `text` in its text layer, or without one for ''."""
    writer = PdfWriter()
    page = writer.add_blank_page(200, 200)
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    fonts = DictionaryObject({NameObject("/F1"): font})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    stream = DecodedStreamObject()
    stream.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode() if text else b"")
    page[NameObject("/Contents")] = writer._add_object(stream)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def make_docx(*paragraphs: str) -> bytes:
    """A Word document with these paragraphs and a table of one cell."""
    document = Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    document.add_table(1, 1).cell(0, 0).text = "in a table"
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def make_docx_bomb(size_bytes: int) -> bytes:
    """A Word document of a few kilobytes whose text unpacks to `size_bytes`."""
    packed, bomb = io.BytesIO(make_docx("x")), io.BytesIO()
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(bomb, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "word/document.xml":
                data = data.replace(b"<w:t>x</w:t>", b"<w:t>" + b"x" * size_bytes + b"</w:t>")
            target.writestr(name, data, compress_type=zipfile.ZIP_DEFLATED)
    return bomb.getvalue()
