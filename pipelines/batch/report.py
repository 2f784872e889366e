"""The report: a page for people, in Markdown, beside the manifest."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.batch.export import finished_rows
from pipelines.batch.job import BatchJob
from pipelines.batch.layout import REPORT
from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.records import BatchManifest, JobPlan
from pipelines.batch.store import OutputStore

SAMPLES = 20
_CELL_CHARACTERS = 160
_BAR = 30  # characters of the longest bar
_BINS = 10
_SHOWN = ["row", "document", "chunk", "answer", "error", "tokens in", "tokens out"]
_ACTIVE = re.compile(r"([\\`*_\[\]|~])")  # characters that Markdown would act on


def write_report(plan: JobPlan, manifest: BatchManifest, store: OutputStore) -> None:
    """Write the report of a finished job; raises OutputDamaged as `export` does."""
    survey = look(finished_rows(store, manifest), manifest.rows, labels(plan.job))
    store.replace(REPORT, render(plan, manifest, survey).encode())


@dataclass
class Survey:
    """What one pass over the rows finds."""

    prompt_lengths: Counter[int] = field(default_factory=Counter)
    answer_lengths: Counter[int] = field(default_factory=Counter)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def render(plan: JobPlan, manifest: BatchManifest, survey: Survey) -> str:
    """The page: counts, errors, lengths, sample rows, and what it all rests on."""
    share = 100 * manifest.rows_ok / manifest.rows
    parts = [
        f"# {cell(manifest.name)}",
        f"{manifest.rows_ok} of {manifest.rows} rows answered ({share:.1f} %), "
        f"from {manifest.documents} documents; {manifest.documents_with_errors} documents have "
        "an error in some row.",
        _section("What was asked of what", ["fact", "value"], _facts(plan, manifest)),
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


def look(rows: Iterable[dict[str, Any]], total: int, labels: Sequence[str]) -> Survey:
    """Go over all rows once; memory does not grow with their number.

    `labels` names the typed columns whose values are counted: those with few values by schema.
    """
    survey = Survey()
    shown = {index * total // SAMPLES for index in range(SAMPLES)}
    for row in rows:
        if row["row"] in shown:
            survey.samples.append(row)
        if row["error_class"] is not None:
            example = f"{row['document_id']}: {row['error_message']}"
            survey.failures.setdefault(row["error_class"], example)
        if row["attempts"]:
            survey.prompt_lengths[row["prompt_tokens"]] += 1
            survey.answer_lengths[row["completion_tokens"]] += 1
        for name in labels:
            if (value := row[f"output_{name}"]) is not None:
                survey.values.setdefault(name, Counter())[str(value)] += 1
    return survey


def labels(job: BatchJob) -> list[str]:
    """Typed columns that a schema gives a list of values, or two."""
    properties = (job.output_schema or {}).get("properties", {})
    columns = OutputSchema(job.output_schema).columns
    return [c.name for c in columns if "enum" in properties[c.name] or c.type == pa.bool_()]


def _facts(plan: JobPlan, manifest: BatchManifest) -> list[list[str]]:
    ignored = ", ".join(f"{count} {kind}" for kind, count in manifest.ignored_files.items())
    engines = ", ".join(f"{name} ({count} rows)" for name, count in manifest.engines.items())
    facts = {
        "classification": f"{manifest.classification}; answered by the {manifest.destination}",
        "model": manifest.model,
        "weight digest": manifest.weight_digest,
        "chat template": manifest.template_sha256 or "none",
        "engine": engines or "none was needed",
        "prompt": manifest.prompt.template,
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
    return [[fact, value] for fact, value in facts.items()]


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
    """Ten bins of equal width over what there is, in tokens."""
    if not lengths:
        return ""
    low, width = min(lengths), (max(lengths) - min(lengths)) // _BINS + 1
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[(length - low) // width] += count
    most = max(bins.values())
    rows = []
    for index in range(max(bins) + 1):
        begin = low + index * width
        bar = "█" * -(-bins[index] * _BAR // most)
        rows.append([f"{begin} to {begin + width - 1}", str(bins[index]), bar])
    return _section(title, ["tokens", "rows", ""], rows)


def _section(title: str, header: list[str], rows: list[list[str]]) -> str:
    """A heading and a table; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {title}\n\n{table}"
