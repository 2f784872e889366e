"""The report as a page of its own: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.batch.records import BatchManifest
from pipelines.batch.survey import Bin, Survey, bins

TEMPLATE = Path(__file__).with_name("report_page.html")
_TEXT_SHOWN = 2000  # characters of one answer
_BARS = 12  # values or error classes in a chart; all of them are in its table
_COLOUR = "#35618f"
_AMOUNT = {"field": "rows", "type": "quantitative", "title": "rows", "axis": {"tickMinStep": 1}}


def render_page(
    manifest: BatchManifest, survey: Survey, facts: Mapping[str, str], cost: Mapping[str, str]
) -> str:
    """The page: counts, cost, lengths, errors, values and sample rows of a finished job.

    Text that came from documents or models is escaped, and cut to 2,000 characters; charts are
    images within the page, and the page's own policy forbids scripts and requests.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        manifest=manifest,
        share=100 * manifest.rows_ok / manifest.rows,
        facts=facts,
        cost=cost,
        charts=_charts(manifest, survey),
        errors=[(k, n, survey.failures.get(k, "")) for k, n in manifest.errors.items()],
        values={name: counts.most_common() for name, counts in survey.values.items()},
        samples=[_sample(row) for row in survey.samples],
    )


def _charts(manifest: BatchManifest, survey: Survey) -> dict[str, str]:
    """Title to image, as data URIs; only charts that have something to show."""
    found = {
        "Prompt length": _lengths(bins(survey.prompt_lengths)),
        "Answer length": _lengths(bins(survey.answer_lengths)),
        "Errors": _counts("class", Counter(manifest.errors)),
        **{f"Values of {name}": _counts("value", c) for name, c in survey.values.items()},
    }
    return {title: _image(spec) for title, spec in found.items() if spec is not None}


def _lengths(found: Sequence[Bin]) -> dict[str, Any] | None:
    if not found:
        return None
    values = [{"from": b.first, "to": b.last + 1, "rows": b.rows} for b in found]
    x: dict[str, Any] = {
        "field": "from",
        "type": "quantitative",
        "bin": {"binned": True},
        "title": "tokens",
    }
    x["axis"] = {"tickMinStep": 1}
    return _chart(values, {"x": x, "x2": {"field": "to"}, "y": _AMOUNT})


def _counts(what: str, counts: Counter[str]) -> dict[str, Any] | None:
    if not counts:
        return None
    values = [{what: name[:40], "rows": rows} for name, rows in counts.most_common(_BARS)]
    y = {"field": what, "type": "nominal", "sort": None, "title": None}
    return {**_chart(values, {"y": y, "x": _AMOUNT}), "height": {"step": 24}}


def _chart(values: list[dict[str, Any]], encoding: dict[str, Any]) -> dict[str, Any]:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": values},
        "mark": {"type": "bar", "color": _COLOUR},
        "encoding": encoding,
        "width": 360,
        "height": 180,
    }


def _image(spec: dict[str, Any]) -> str:
    """An image, not markup: what a label holds cannot become part of the page."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(spec)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    answer = row["output"] or row["raw_text"]
    cut = "…" if len(answer) > _TEXT_SHOWN else ""
    return {**row, "answer": answer[:_TEXT_SHOWN] + cut}
