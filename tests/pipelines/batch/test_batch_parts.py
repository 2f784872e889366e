"""The parts of a batch job on their own: text, tokens, schema, journal."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tiny_model

from pipelines.batch.feed import shard_order
from pipelines.batch.job import Chunking
from pipelines.batch.journal import ShardJournal, count_rows
from pipelines.batch.output_schema import AnswerFault, OutputSchema, loose_ends
from pipelines.batch.report import cell
from pipelines.batch.rows import Row
from pipelines.batch.text import html_text
from pipelines.batch.tokens import ModelTokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["red", "green", None]},
        "count": {"type": ["integer", "null"]},
        "score": {"type": "number"},
        "sure": {"type": "boolean"},
    },
    "required": ["label"],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer(make_tiny_model(tmp_path_factory.mktemp("m") / "tiny").weights)


def test_html_keeps_what_is_seen_and_puts_blocks_on_lines() -> None:
    page = (
        "<html><head><title>T</title><style>p{}</style></head><body><h1>Big &amp; bold</h1>"
        "<p>one <b>two</b>\nthree</p><script>no()</script><ul><li>a<li>b</ul>"
        "<pre>x\n  y</pre>&eacute;</body>"
    )
    assert html_text(page) == "Big & bold\none two three\na\nb\nx\ny\né"


def test_html_that_is_broken_still_gives_its_text() -> None:
    assert html_text("<p>a<script>b</p></script>c<style>d") == "a\nc"
    assert html_text("<head><title>x<body>seen") == "seen"
    assert html_text("</div></script>a < b") == "a < b"


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    tokens=st.integers(16, 60),
    overlap=st.integers(0, 15),
)
def test_chunks_cover_the_text_and_overlap_as_asked(
    tokenizer: ModelTokenizer, text: str, tokens: int, overlap: int
) -> None:
    plain = tokenizer.spans(text, Chunking(tokens=tokens))
    assert "".join(text[start:end] for start, end in plain) == text
    spans = tokenizer.spans(text, Chunking(tokens=tokens, overlap_tokens=overlap))
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    for (_, end), (start, _) in pairwise(spans):
        assert start <= end
        if overlap >= 4:  # bytes of one character
            assert start < end
    # A chunk may begin within a character's bytes, and then takes the whole of it.
    assert all(len(text[start:end].encode()) <= tokens + 3 for start, end in spans)


def test_a_schema_gives_typed_columns_when_it_is_flat() -> None:
    types = {column.name: column.type for column in OutputSchema(SCHEMA).columns}
    assert types == {
        "label": pa.string(),
        "count": pa.int64(),
        "score": pa.float64(),
        "sure": pa.bool_(),
    }
    nested = {"type": "object", "properties": {"all": {"type": "array"}, "one": {"const": 1}}}
    assert OutputSchema(nested).columns == ()
    assert OutputSchema({"type": "array"}).columns == ()
    assert OutputSchema(None).columns == ()


def test_an_answer_is_kept_as_canonical_json_with_typed_values() -> None:
    schema = OutputSchema(SCHEMA)
    output = schema.parse(' {"sure": true, "label": "red", "count": 3.0, "score": 1}')
    assert output == '{"count":3.0,"label":"red","score":1,"sure":true}'
    assert schema.typed(output) == ["red", 3, 1.0, True]
    assert schema.typed('{"label":null}') == [None] * 4


@pytest.mark.parametrize(
    ("text", "error_class"),
    [
        ("", "invalid_json"),
        ('{"label": "red"', "invalid_json"),
        ('{"label": "red"} and more', "invalid_json"),
        ('{"label": "red", "score": NaN}', "invalid_json"),
        ('{"label": "red", "score": 1e999}', "invalid_json"),
        ('{"label": "red", "more": "\\ud800"}', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ('{"label": "red", "count": ' + "9" * 5000 + "}", "invalid_json"),
        ('{"label": "blue"}', "schema_violation"),
        ("{}", "schema_violation"),
        ('"red"', "schema_violation"),
        ('{"label": "red", "count": 9223372036854775808}', "schema_violation"),
        ('{"label": "red", "score": ' + "9" * 400 + "}", "schema_violation"),
    ],
)
def test_an_answer_that_does_not_fit_is_named(text: str, error_class: str) -> None:
    with pytest.raises(AnswerFault) as caught:
        OutputSchema(SCHEMA).parse(text)
    assert caught.value.error_class == error_class


def test_a_schema_may_refer_to_itself() -> None:
    schema = OutputSchema({"$defs": {"a": {"enum": [1]}}, "$ref": "#/$defs/a"})
    assert schema.parse("1") == "1"
    with pytest.raises(AnswerFault):
        schema.parse("2")


def test_loose_ends_of_a_schema_are_named() -> None:
    schema = {
        "type": "object",
        "properties": {
            "why": {"type": "string"},
            "when": {"type": "string", "maxLength": 10},
            "list": {"type": "array", "items": {"type": "integer"}},
        },
    }
    assert list(loose_ends(schema)) == [
        "why: string without maxLength",
        "list: array without maxItems",
        "list[]: integer without exclusiveMaximum or maximum",
    ]


def row(number: int) -> Row:
    return Row(
        row=number,
        document_id=f"dé-{number}",
        document_sha256="0" * 64,
        chunk=0,
        raw_text='line one\nline two "\0',
        attempts=1,
        engine="scripted 1",
    )


def test_a_torn_journal_loses_only_its_torn_line(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    journal = ShardJournal(folder, 3)
    for number in range(3):
        journal.append(row(number))
    journal.close()
    (file,) = folder.iterdir()
    data = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == 0x0A]
    assert len(ends) == 3
    for size in range(len(data) + 1):
        file.write_bytes(data[:size])
        whole = sum(end <= size for end in ends)
        assert ShardJournal(folder, 3).read() == {n: row(n) for n in range(whole)}
        assert count_rows(folder) == whole


def test_a_journal_with_rubbish_in_it_keeps_its_good_rows(tmp_path: Path) -> None:
    journal = ShardJournal(tmp_path, 0)
    journal.append(row(1))
    journal.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"\0\0\0\n" + file.read_bytes() + b'{"row": 2}\n[]\n\xff\n')
    assert ShardJournal(tmp_path, 0).read() == {1: row(1)}


def test_journals_of_all_processes_count_and_a_row_counts_once(tmp_path: Path) -> None:
    for numbers in ([0, 1], [1, 2]):
        journal = ShardJournal(tmp_path, 0)
        for number in numbers:
            journal.append(row(number))
        journal.close()
    other = ShardJournal(tmp_path, 1)
    other.append(row(9))
    reader = ShardJournal(tmp_path, 0)
    assert sorted(reader.read()) == [0, 1, 2]
    reader.remove()
    assert ShardJournal(tmp_path, 0).read() == {}
    assert sorted(ShardJournal(tmp_path, 1).read()) == [9]
    other.close()


@pytest.mark.parametrize(("workers", "shards"), [(1, 5), (2, 5), (3, 10), (4, 2), (7, 7)])
def test_each_worker_comes_by_every_shard_from_its_own_start(workers: int, shards: int) -> None:
    orders = [shard_order(worker, workers, shards) for worker in range(workers)]
    assert all(sorted(order) == list(range(shards)) for order in orders)
    assert [order[0] for order in orders] == [i * shards // workers for i in range(workers)]


def test_text_from_documents_is_harmless_in_a_report() -> None:
    hostile = "<img src=x onerror=y> | **a**\n[link](http://example.org) `code`"
    safe = cell(hostile)
    assert "<" not in safe
    assert "\n" not in safe
    assert "://" not in safe
    assert safe.count("|") == safe.count("\\|")
    assert json.dumps(cell("x" * 500)).count("x") == 160
