"""Reports: complete, bounded, and harmless whatever documents and models wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from finishing import finish
from scripted_engine import Script

from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.report import write_report
from pipelines.batch.store import open_store
from pipelines.batch.survey import OTHER, Bin, bins, look

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7*7 }}'


def test_bins_cover_every_length_once() -> None:
    lengths = Counter({3: 2, 12: 1, 107: 5})
    found = bins(lengths)
    assert sum(b.rows for b in found) == 8
    assert found[0].first == 3
    assert found[-1].first <= 107 <= found[-1].last
    assert all(a.last + 1 == b.first for a, b in pairwise(found))
    assert bins(Counter({5: 4})) == [Bin(5, 5, 4)]
    assert bins(Counter()) == []


def test_a_survey_counts_a_bounded_number_of_values() -> None:
    base = {"error_class": None, "attempts": 1, "prompt_tokens": 1, "completion_tokens": 1}
    rows = ({**base, "row": n, "output_x": str(n)} for n in range(1000))
    survey = look(rows, 1000, ["x"])
    assert len(survey.values["x"]) == 201
    assert survey.values["x"][OTHER] == 800
    assert [row["row"] for row in survey.samples] == list(range(0, 1000, 50))


@pytest.fixture
def page(
    make_job: Callable[..., BatchJob], tiny_model: ModelOnDisk, corpus: Path
) -> Callable[..., str]:
    def write(**changes: object) -> str:
        job = make_job(output_schema=None, **changes)
        manifest = finish(job, tiny_model, Script(answers=dict.fromkeys(range(60), (HOSTILE,))))
        store = open_store(job.output)
        write_report(plan(job, tiny_model), manifest, store, {"engine time": "2.0 s"})
        return (store.read("report.html") or b"").decode()

    return write


def test_a_page_shows_text_from_outside_as_text(page: Callable[..., str], corpus: Path) -> None:
    (corpus / "<b>bold.txt").write_text("x")
    text = page()
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "<b>bold" not in text
    assert "{{ 7*7 }}" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("data:image/svg+xml;base64,") >= 2
    assert "engine time" in text
