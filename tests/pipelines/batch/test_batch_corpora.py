"""Tables and buckets: every row is listed, found again, and told apart when it is broken."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from papers import make_pdf
from pydantic import ValidationError

from pipelines.batch.corpus import CorpusReader, Document, read_documents
from pipelines.batch.job import BatchJob, Corpus
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.text import DocumentError
from pipelines.errors import ConfigError, CorpusUnreadable, EmptyCorpus, SourceNotFound

MakeJob = Callable[..., BatchJob]
ROWS = [
    {"id": f"r{n}", "text": f'row {n}, "quoted"\nand a second line', "n": n} for n in range(1500)
]


def listed(corpus: Corpus) -> list[Document]:
    return list(read_documents(corpus, Counter()))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_table(path: Path) -> None:
    """ROWS in the kind and compression that the path's suffixes name."""
    plain = path.with_name(path.name.removesuffix(".gz").removesuffix(".zst"))
    if plain.suffix == ".csv":
        write_csv(plain, ROWS)
    elif plain.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), plain, row_group_size=400)
    else:
        plain.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    if path != plain:
        pack = gzip.compress if path.suffix == ".gz" else zstandard.compress
        path.write_bytes(pack(plain.read_bytes()))
        plain.unlink()


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.csv.gz", "a.csv.zst", "a.parquet"],
)
def test_every_row_of_a_table_is_listed_and_found_again_in_any_order(
    tmp_path: Path, name: str
) -> None:
    write_table(tmp_path / name)
    corpus = Corpus(path=str(tmp_path / name))
    documents = listed(corpus)
    assert [document.id for document in documents] == [row["id"] for row in ROWS]
    assert [document.text for document in documents] == [row["text"] for row in ROWS]
    jumps = random.Random(7).sample(documents, 12)
    with CorpusReader(corpus) as reader:
        for document in [*jumps, *documents[1000:1050], documents[0]]:
            again = reader.reread("", document.offset, document.sha256, document.id)
            assert again.fields == document.fields
        with pytest.raises(DocumentError, match="planned as"):
            reader.reread("", documents[5].offset, documents[6].sha256, "r6")


def test_a_folder_of_tables_is_one_corpus_with_ids_of_their_places(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv"):
        write_csv(tmp_path / name, [{"words": f"{name} {n}"} for n in range(2)])
    (tmp_path / "readme.txt").write_text("no table")
    ignored: Counter[str] = Counter()
    corpus = Corpus(path=str(tmp_path), kind="csv", text_column="words", id_column=None)
    documents = list(read_documents(corpus, ignored))
    assert [d.id for d in documents] == ["a.csv:row-2", "a.csv:row-3", "b.csv:row-2", "b.csv:row-3"]
    assert ignored == {".txt": 1}
    with CorpusReader(corpus) as reader:
        third = documents[2]
        again = reader.reread(third.path, third.offset, third.sha256, third.id)
        assert (again.id, again.text) == ("b.csv:row-2", "b.csv 0")


def test_each_broken_row_of_a_csv_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(
        b"\xef\xbb\xbfid,text\r\n1,well\r\n2,caf\xe9\r\n3,a\0b\r\n4,too,many\r\n5\r\n"
        b"6,  \r\n,nameless\r\n\r\n7," + b"x" * 200 + b'\r\n8,"a ""quoted"" word"\r\n9,"a"b\r\n'
        b"10,end"
    )
    found = listed(Corpus(path=str(file), max_document_bytes=100))
    assert [(d.id, d.error.error_class if d.error else None) for d in found] == [
        ("1", None),
        ("row-3", "invalid_utf8"),
        ("row-4", "not_text"),
        ("row-5", "invalid_line"),
        ("row-6", "invalid_line"),
        ("6", "empty"),
        ("row-8", "invalid_line"),
        ("row-10", "too_large"),
        ("8", None),
        ("row-12", "invalid_line"),
        ("10", None),
    ]
    assert found[8].text == 'a "quoted" word'


def test_a_table_whose_rows_cannot_all_be_read_is_refused(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    write_table(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    broken = {
        "open.csv": b'id,text\n1,"never closed\n2,b\n',
        "cut.jsonl.gz": gzip.compress(lines)[:-2000],
        "cut.jsonl.zst": zstandard.compress(lines)[:-2000],
        "cut.parquet": whole[:-50],
        "damaged.parquet": whole[:100] + b"\xff" * 3000 + whole[3100:],
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        job = make_job(corpus={"path": str(tmp_path / name)})
        with pytest.raises(CorpusUnreadable, match=r"cannot all be accounted for"):
            plan(job, tiny_model)
        assert not Path(job.output).exists()


def test_a_table_without_the_named_columns_is_refused(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    write_csv(tmp_path / "a.csv", [{"id": 1, "words": "a"}])
    table = pa.table({"id": [1.5], "text": [b"bytes"], "n": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    for corpus, says in [
        ({"path": str(tmp_path / "a.csv")}, r"no column 'text' \(its columns: \['id', 'words'\]\)"),
        ({"path": str(tmp_path / "a.parquet")}, "column 'text' is binary, not text"),
        ({"path": str(tmp_path / "a.parquet"), "text_column": "b"}, "no column 'b'"),
    ]:
        with pytest.raises(ConfigError, match=says):
            plan(make_job(corpus=corpus), tiny_model)
    with pytest.raises(ValidationError, match="messages_column is for jsonl"):
        Corpus(path="a.csv", messages_column="messages")


def test_a_line_of_100_megabytes_is_passed_over_in_pieces(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"id": "a", "text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"id": "b", "text": "well"}\n')
    first, second = listed(Corpus(path=str(tmp_path / "a.jsonl")))
    assert (first.id, first.error and first.error.error_class) == ("line-1", "too_large")
    assert (second.id, second.text) == ("b", "well")


def test_long_numbers_reach_the_prompt_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 123456789012345678901234567890, "text": "a"}\n')
    (document,) = listed(Corpus(path=str(tmp_path / "a.jsonl")))
    assert document.id == "123456789012345678901234567890"


def test_dates_and_decimals_of_a_parquet_file_reach_the_prompt_as_text(tmp_path: Path) -> None:
    import datetime
    import decimal

    rows = [{"id": 1, "text": "a", "on": datetime.date(2026, 1, 2), "for": decimal.Decimal("1.50"),
             "raw": b"\0", "tags": ["x"]}]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (document,) = listed(Corpus(path=str(tmp_path / "a.parquet")))
    assert document.fields == {"text": "a", "on": "2026-01-02", "for": "1.50", "tags": ["x"]}


def put(location: str, objects: dict[str, bytes]) -> None:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    client = boto3.session.Session().client("s3")
    for name, data in objects.items():
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)


def test_a_prefix_is_a_corpus_like_a_folder(
    s3_output: str, make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    texts = {f"docs/{n:02}.txt": f"document {n}".encode() for n in range(40)}
    others = {"docs/.hidden.txt": b"hidden", "docs/picture.png": b"PNG"}
    put(s3_output, {**texts, **others, "docs/paper.pdf": make_pdf("Words of a page")})
    corpus = Corpus(path=f"{s3_output}/docs")
    made = plan(make_job(corpus=corpus), tiny_model)
    assert (made.documents, made.ignored_files) == (41, {".png": 1, "hidden": 1})
    documents = listed(corpus)
    assert [d.id for d in documents] == sorted(d.id for d in documents)
    assert documents[-1].text == "Words of a page"
    with CorpusReader(corpus) as reader:
        first = documents[0]
        assert reader.reread(first.path, 0, first.sha256, first.id).text == "document 0"
        put(s3_output, {"docs/00.txt": b"replaced"})
        with pytest.raises(DocumentError, match="planned as"):
            reader.reread(first.path, 0, first.sha256, first.id)
    with pytest.raises(EmptyCorpus, match="passed over: nothing"):
        plan(make_job(corpus={"path": f"{s3_output}/none"}, output=str(tmp_path / "o")), tiny_model)
    with pytest.raises(SourceNotFound):
        listed(Corpus(path="s3://no-such-bucket-here/docs"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet"])
def test_a_table_in_a_bucket_is_read_by_ranges(s3_output: str, tmp_path: Path, name: str) -> None:
    write_table(tmp_path / name)
    put(s3_output, {name: (tmp_path / name).read_bytes()})
    corpus = Corpus(path=f"{s3_output}/{name}")
    documents = listed(corpus)
    assert [document.text for document in documents] == [row["text"] for row in ROWS]
    with CorpusReader(corpus) as reader:
        for at in (1200, 1201, 10):
            again = reader.reread("", documents[at].offset, documents[at].sha256, f"r{at}")
            assert again.fields == documents[at].fields
