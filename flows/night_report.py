"""A night as a page: what was done, what was left out, what got worse, and the trend."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence

from evals.drift import drift_lines
from evals.flips import Flip
from flows.night_history import NightChange, NightRecord, NightRow
from flows.reports import Row

LISTED = 20
_CHARACTERS = 300  # of a prompt or an answer in a table
_BARS = "▁▂▃▄▅▆▇█"


def table_row(row: NightRow) -> Row:
    """One row of the night's table artifact."""
    return {
        "evaluation": row.evaluation,
        "role": row.role,
        "outcome": row.outcome,
        "evidence": row.age,
        "seconds": f"{row.seconds:.1f}" if row.seconds else "",
        "USD": "" if row.cost_usd is None else f"{row.cost_usd:.2f}",
        "detail": row.detail,
    }


def page(nights: Sequence[NightRecord]) -> str:
    """The last of `nights` in Markdown, with the trend over all of them as an image and a table."""
    night = nights[-1]
    lines = [f"# Night of {night.began_at}", "", *_summary(night), ""]
    for change in night.regressions:
        lines += [*_regression(change), ""]
    for report in night.drift:
        lines += [*drift_lines(report), ""]
    trend = _trends(nights)
    if trend:
        image = base64.b64encode(chart(nights).encode()).decode()
        lines += ["## Trend", "", f"![scores by night](data:image/svg+xml;base64,{image})", ""]
        lines += ["| model | task | metric | nights | last | change |", "|---|---|---|---|---|---|"]
        lines += [_trend_row(name, values) for name, values in trend.items()]
    return "\n".join(lines) + "\n"


def html_page(nights: Sequence[NightRecord]) -> str:
    """The same for a browser, in one file without links: the chart inline, all flipped items."""
    night = nights[-1]
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in table_row(row).values())}</tr>"
        for row in night.rows
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table_row(night.rows[0]))
    flips = "".join(_html_regression(change) for change in night.regressions)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Night of {html.escape(night.began_at)}</title>"
        "<style>body{font-family:sans-serif;margin:2em}td,th{border:1px solid #ccc;padding:4px;"
        "text-align:left;vertical-align:top}table{border-collapse:collapse}pre{white-space:"
        "pre-wrap;margin:0}</style>"
        f"<h1>Night of {html.escape(night.began_at)}</h1>"
        f"<table><tr>{head}</tr>{rows}</table>{flips}"
        f"<h2>Trend</h2>{chart(nights)}</html>\n"
    )


def chart(nights: Sequence[NightRecord]) -> str:
    """Scores over nights as SVG: a panel a task, a line a model."""
    import vl_convert

    values = [
        {
            "night": night.began_at,
            "model": score.model,
            "task": f"{score.suite}/{score.task} ({score.metric})",
            "value": score.value,
        }
        for night in nights
        for score in night.scores
    ]
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": values},
        "facet": {"field": "task", "type": "nominal", "title": None},
        "columns": 2,
        "resolve": {"scale": {"y": "independent"}},
        "spec": {
            "width": 320,
            "height": 160,
            "mark": {"type": "line", "point": True},
            "encoding": {
                "x": {
                    "field": "night",
                    "type": "temporal",
                    "title": None,
                    "axis": {"format": "%d %b", "labelOverlap": True, "tickCount": "day"},
                },
                "y": {
                    "field": "value",
                    "type": "quantitative",
                    "scale": {"zero": False},
                    "title": None,
                },
                "color": {"field": "model", "type": "nominal", "legend": {"labelLimit": 400}},
            },
        },
    }
    svg: str = vl_convert.vegalite_to_svg(json.dumps(spec))
    return svg


def _summary(night: NightRecord) -> list[str]:
    counts: dict[str, int] = {}
    for row in night.rows:
        counts[row.outcome] = counts.get(row.outcome, 0) + 1
    lines = [", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) + "."]
    for outcome in ("failed", "left out"):
        found = [row for row in night.rows if row.outcome == outcome]
        if found:
            lines += ["", f"## {outcome.capitalize()}", ""]
            lines += [f"- {row.evaluation}: {_cell(row.detail)}" for row in found]
    if not night.regressions:
        lines += ["", "No task that ran again is shown to have lost."]
    return lines


def _regression(found: NightChange) -> list[str]:
    change = found.change
    lines = [
        f"## Worse: {found.evaluation}, {change.task}",
        "",
        f"{change.before:.3f} before, {change.after:.3f} after, on {change.items} items: "
        f"{len(change.flips)} lost, {change.gained} gained (p of harm {change.harm_p:.2g}).",
        "",
        "| item | prompt | answer before | answer now | right answer |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = [map(_cell, _texts(flip)) for flip in change.flips[:LISTED]]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    if len(change.flips) > LISTED:
        lines += ["", f"{len(change.flips) - LISTED} more are in the night's HTML file."]
    return lines


def _html_regression(found: NightChange) -> str:
    rows = "".join(
        f"<tr>{''.join(f'<td><pre>{html.escape(text)}</pre></td>' for text in _texts(flip))}</tr>"
        for flip in found.change.flips
    )
    title = html.escape(f"Worse: {found.evaluation}, {found.change.task}")
    head = "<tr><th>item<th>prompt<th>answer before<th>answer now<th>right answer</tr>"
    return f"<h2>{title}</h2><table>{head}{rows}</table>"


def _texts(flip: Flip) -> tuple[str, ...]:
    return flip.item, flip.prompt, flip.before, flip.after, flip.gold


def _trends(nights: Sequence[NightRecord]) -> dict[tuple[str, str, str], list[float]]:
    found: dict[tuple[str, str, str], list[float]] = {}
    for night in nights:
        for score in night.scores:
            name = (score.model, f"{score.suite}/{score.task}", score.metric)
            found.setdefault(name, []).append(score.value)
    return dict(sorted(found.items()))


def _trend_row(name: tuple[str, str, str], values: Sequence[float]) -> str:
    change = f"{values[-1] - values[-2]:+.3f}" if len(values) > 1 else ""
    cells = [*name, sparkline(values[-30:]), f"{values[-1]:.3f}", change]
    return f"| {' | '.join(map(_cell, cells))} |"


def sparkline(values: Sequence[float]) -> str:
    """One character a value, from the lowest to the highest of them."""
    low, high = min(values), max(values)
    if high == low:
        return _BARS[3] * len(values)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] for value in values)


def _cell(text: str) -> str:
    """One line of a Markdown table; what a model wrote may hold anything."""
    short = " ".join(text.split())
    short = short if len(short) <= _CHARACTERS else f"{short[:_CHARACTERS]}…"
    return html.escape(short, quote=False).replace("|", "\\|")
