"""Whole files: every format becomes its text, or one reason why there is none."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from papers import make_docx, make_docx_bomb, make_pdf

from pipelines.batch.corpus import CorpusReader, Document, read_documents
from pipelines.batch.documents.compression import decompressed
from pipelines.batch.documents.extraction import Extractor
from pipelines.batch.documents.language import language_of
from pipelines.batch.job import Corpus
from pipelines.batch.text import DocumentError


def documents(folder: Path, **settings: object) -> dict[str, Document]:
    corpus = Corpus.model_validate({"path": str(folder), **settings})
    return {document.id: document for document in read_documents(corpus, Counter())}


def errors(folder: Path, **settings: object) -> dict[str, str | None]:
    found = documents(folder, **settings)
    return {name: d.error.error_class if d.error else None for name, d in found.items()}


@pytest.fixture
def extractor() -> Iterator[Extractor]:
    made = Extractor(timeout_s=30, max_bytes=1_000_000)
    yield made
    made.close()


def test_every_format_becomes_its_text_compressed_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf("Words of a page"))
    (tmp_path / "b.docx").write_bytes(make_docx("First.", "Second."))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"packed") + gzip.compress(b" twice"))
    (tmp_path / "d.html.zst").write_bytes(zstandard.compress(b"<p>one<p>two"))
    (tmp_path / "e.pdf.gz").write_bytes(gzip.compress(make_pdf("A packed page")))
    found = documents(tmp_path)
    assert {name: document.text for name, document in found.items()} == {
        "a.pdf": "Words of a page",
        "b.docx": "First.\nSecond.\nin a table",
        "c.txt.gz": "packed twice",
        "d.html.zst": "one\ntwo",
        "e.pdf.gz": "A packed page",
    }
    assert found["a.pdf"].media_type == "application/pdf"
    assert found["d.html.zst"].media_type == "text/html"


def test_each_file_that_gives_no_text_says_why(tmp_path: Path) -> None:
    whole, packed = make_pdf("Words"), gzip.compress(b"x" * 1000)
    (tmp_path / "blank.pdf").write_bytes(make_pdf(""))
    (tmp_path / "broken.docx").write_bytes(make_docx("x")[:500])
    (tmp_path / "broken.pdf").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "cut.txt.gz").write_bytes(packed[:-9])
    (tmp_path / "cut.txt.zst").write_bytes(zstandard.compress(bytes(range(256)) * 9)[:-20])
    (tmp_path / "locked.docx").write_bytes(b"\xd0\xcf\x11\xe0" + b"\0" * 600)
    (tmp_path / "locked.pdf").write_bytes(make_pdf("Secret", password="known to few"))
    (tmp_path / "no.txt.gz").write_bytes(b"not packed")
    (tmp_path / "no.txt.zst").write_bytes(b"not packed")
    (tmp_path / "text.pdf").write_bytes(b"only called a PDF")
    assert errors(tmp_path) == {
        "blank.pdf": "no_text_layer",
        "broken.docx": "broken_file",
        "broken.pdf": "broken_file",
        "cut.txt.gz": "broken_file",
        "cut.txt.zst": "broken_file",
        "locked.docx": "encrypted",
        "locked.pdf": "encrypted",
        "no.txt.gz": "broken_file",
        "no.txt.zst": "broken_file",
        "text.pdf": "broken_file",
    }


def test_what_unpacks_to_more_than_a_document_may_have_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "bomb.docx").write_bytes(make_docx_bomb(20_000_000))
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"x" * 20_000_000))
    (tmp_path / "bomb.txt.zst").write_bytes(zstandard.compress(b"x" * 20_000_000))
    found = errors(tmp_path, max_document_bytes=1_000_000)
    assert set(found.values()) == {"too_large"}
    with decompressed((tmp_path / "bomb.txt.zst").open("rb"), "bomb.txt.zst") as stream:
        assert stream.read(10) == b"x" * 10


def test_a_document_that_hangs_or_explodes_is_an_error_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf("Words"))
    slow = "import time, runpy; time.sleep(60)"
    monkeypatch.setattr("pipelines.batch.documents.extraction._START", slow)
    began = time.monotonic()
    extractor = Extractor(timeout_s=0.2, max_bytes=1000)
    with pytest.raises(DocumentError, match=r"not read within 0\.2 s"):
        extractor.text(".pdf", b"x" * 300_000)  # more than a pipe holds
    assert time.monotonic() - began < 30
    monkeypatch.setattr("pipelines.batch.documents.extraction._START", "raise SystemExit(1)")
    extractor._timeout_s = 30
    with pytest.raises(DocumentError, match="ended the process") as caught:
        extractor.text(".pdf", b"x")
    assert caught.value.error_class == "extraction_failed"
    monkeypatch.undo()
    assert extractor.text(".pdf", make_pdf("Words")) == "Words"
    extractor.close()


def test_the_reader_of_documents_has_bounded_memory(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.batch.documents.extraction._MEMORY_BYTES", 200 << 20)
    greedy = "import sys; sys.stdin.buffer.read(1); x = bytearray(1 << 30)"
    monkeypatch.setattr("pipelines.batch.documents.extraction._START", greedy)
    with pytest.raises(DocumentError, match="memory"):
        extractor.text(".pdf", b"x")


def test_a_planned_document_is_read_again_only_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf("Words"))
    (tmp_path / "b.txt").write_text("two")
    found = documents(tmp_path)
    with CorpusReader(Corpus(path=str(tmp_path))) as reader:
        for name, document in found.items():
            again = reader.reread(name, 0, document.sha256, name)
            assert (again.fields, again.id) == (document.fields, name)
        (tmp_path / "b.txt").write_text("other")
        with pytest.raises(DocumentError, match="planned as"):
            reader.reread("b.txt", 0, found["b.txt"].sha256, "b.txt")


def test_the_language_of_a_text_is_told_from_its_beginning() -> None:
    assert language_of("The licence says what may be done with the program. " * 3) == "en"
    assert language_of("Die Lizenz sagt, was mit dem Programm getan werden darf. " * 3) == "de"
    assert language_of("12345 67890") == "und"
