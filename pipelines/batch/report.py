"""The report: a page for people, as HTML and as Markdown, beside the manifest."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.batch.export import finished_rows
from pipelines.batch.layout import PAGE, REPORT
from pipelines.batch.records import BatchManifest, JobPlan
from pipelines.batch.report_page import render_page
from pipelines.batch.store import OutputStore
from pipelines.batch.survey import Survey, bins, labels, look
from pipelines.progress import duration
from pipelines.records import RunInfo

_CELL_CHARACTERS = 160
_BAR = 30  # characters of the longest bar
_SHOWN = ["row", "document", "chunk", "answer", "error", "tokens in", "tokens out"]
_ACTIVE = re.compile(r"([\\`*_\[\]|~])")  # characters that Markdown would act on


def write_report(
    plan: JobPlan,
    manifest: BatchManifest,
    store: OutputStore,
    cost: Mapping[str, str] | None = None,
) -> None:
    """Write the reports of a finished job; raises OutputDamaged as `export` does.

    `cost` is what the HTML page says about time and money, in the words that it is shown in.
    """
    survey = look(finished_rows(store, manifest), manifest.rows, labels(plan.job))
    facts = _facts(plan, manifest)
    store.replace(REPORT, render(manifest, survey, facts).encode())
    store.replace(PAGE, render_page(manifest, survey, facts, cost or {}).encode())


def cost_facts(info: RunInfo) -> dict[str, str]:
    """What a run and its job took, in words: time of engines, and money where a price is known."""
    found = info.details
    facts = {"workers' time over all runs of the job": duration(float(found["job_worker_s"]))}
    if found["rows_generated"]:
        facts |= {
            "in this run": f"{found['rows_generated']} rows in {duration(info.wall_s)}",
            "engine started in": duration(float(found["engine_start_s"])),
            "engine busy while rows were waiting": f"{100 * float(found['occupancy']):.1f} %",
        }
    if "job_usd" in found:
        facts["cost"] = f"{float(found['job_usd']):.2f} USD"
    return facts


def render(manifest: BatchManifest, survey: Survey, facts: Mapping[str, str]) -> str:
    """The Markdown page: counts, errors, lengths, sample rows, and what it all rests on."""
    share = 100 * manifest.rows_ok / manifest.rows
    parts = [
        f"# {cell(manifest.name)}",
        f"{manifest.rows_ok} of {manifest.rows} rows answered ({share:.1f} %), "
        f"from {manifest.documents} documents; {manifest.documents_with_errors} documents have "
        "an error in some row.",
        _section("What was asked of what", ["fact", "value"], [[*fact] for fact in facts.items()]),
        _section(
            "Errors",
            ["class", "rows", "for example"],
            [[k, str(n), survey.failures.get(k, "")] for k, n in manifest.errors.items()],
        ),
        *(
            _section(f"Values of {name}", ["value", "rows"], _counted(counts))
            for name, counts in survey.values.items()
        ),
        _histogram("Prompt lengths", survey.prompt_lengths),
        _histogram("Answer lengths", survey.answer_lengths),
        _section(f"Rows, {len(survey.samples)} evenly spaced", _SHOWN, _shown(survey.samples)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def cell(text: str) -> str:
    """Text that came from documents or models as one harmless table cell."""
    flat = " ".join(text.split())
    short = flat if len(flat) <= _CELL_CHARACTERS else flat[:_CELL_CHARACTERS] + "…"
    return _ACTIVE.sub(r"\\\1", html.escape(short, quote=False)).replace("://", "&#58;//")


def _facts(plan: JobPlan, manifest: BatchManifest) -> dict[str, str]:
    ignored = ", ".join(f"{count} {kind}" for kind, count in manifest.ignored_files.items())
    engines = ", ".join(f"{name} ({count} rows)" for name, count in manifest.engines.items())
    return {
        "classification": f"{manifest.classification}; answered by the {manifest.destination}",
        "model": manifest.model,
        "weight digest": manifest.weight_digest,
        "chat template": manifest.template_sha256 or "none",
        "engine": engines or "none was needed",
        "prompt": manifest.prompt.template,
        **({"prompt that combines": manifest.reduce.template} if manifest.reduce else {}),
        "corpus": manifest.corpus_sha256,
        "duplicate documents": str(manifest.duplicate_documents),
        "documents cut short": str(manifest.cut_documents),
        "files passed over": ignored or "none",
        "tokens read": f"{manifest.tokens.prompt}, {manifest.tokens.cached} of them from cache",
        "tokens written": str(manifest.tokens.completion),
        "attempts": str(manifest.attempts),
        "job": manifest.job_id,
        "notes": "; ".join(plan.notes) or "none",
    }


def _shown(samples: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            str(row["row"]),
            row["document_id"],
            str(row["chunk"]),
            row["output"] or row["raw_text"],
            row["error_class"] or "",
            str(row["prompt_tokens"]),
            str(row["completion_tokens"]),
        ]
        for row in samples
    ]


def _counted(counts: Counter[str]) -> list[list[str]]:
    return [[value, str(count)] for value, count in counts.most_common()]


def _histogram(title: str, lengths: Counter[int]) -> str:
    """A table of bins with bars, in tokens."""
    found = bins(lengths)
    most = max((b.rows for b in found), default=1)
    rows = [[f"{b.first} to {b.last}", str(b.rows), "█" * -(-b.rows * _BAR // most)] for b in found]
    return _section(title, ["tokens", "rows", ""], rows)


def _section(title: str, header: list[str], rows: list[list[str]]) -> str:
    """A heading and a table; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {title}\n\n{table}"
