"""What a finished job is good for: a candidate beside it, and its rows in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.options import Json, Registry

Job = Annotated[str, typer.Argument(help="A finished job: its file, or its output location.")]


def shadow(
    job: Job,
    candidate: Annotated[str, typer.Option("--candidate", "-c", help="A verified model's name.")],
    documents: Annotated[
        int, typer.Option(min=1, help="How many documents of the job to ask about.")
    ] = 200,
    publish: Annotated[
        bool, typer.Option("--publish", help="Put the record into the registry, as evidence.")
    ] = False,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Compare a candidate with production on documents of a finished job."""
    from flows.shadowing import run_shadow
    from pipelines.batch.taking_up import named_job
    from pipelines.settings import load_settings

    output = named_job(job).output
    found = run_shadow(load_settings(registry), output, candidate, documents, publish=publish)
    record = found.record
    low, high = record.agreement_interval
    facts = {
        "documents": str(record.documents),
        "rows compared": str(record.rows),
        "agreement": f"{record.agreement:.3f}, 95 % interval {low:.3f} to {high:.3f}",
        "similarity of words": f"{record.similarity:.3f}",
        "answers that fit the schema": f"{record.schema_validity:.3f}",
        "refusals": f"{record.refusal_rate:.3f}, production "
        f"{record.production.refusals / record.rows:.3f}",
        "answer length over production's": "-"
        if record.length_ratio is None
        else f"{record.length_ratio:.2f}",
        **{f"agreement on {f.field}": f"{f.agreed} of {f.compared}" for f in record.fields},
        "answers of the candidate": found.answers,
    }
    rows = [[fact, value] for fact, value in facts.items()]
    title = f"{candidate} beside {record.production.model}"
    data = record.model_dump(mode="json")
    console.show_table(title, ["fact", "value"], rows, data, json)
    if not json and found.differences:
        shown = [[name, before[:300], after[:300]] for name, before, after in found.differences]
        console.show_table("Rows that differ", ["row", "production", candidate], shown, None, False)


def publish(
    job: Job,
    name: Annotated[str, typer.Argument(help="What the rows are called: outputs/NAME.")],
    expectations: Annotated[
        Path | None,
        typer.Option("--expectations", "-e", help="A Great Expectations suite as YAML or JSON."),
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Check a finished job's rows, and put them into the registry as a version of outputs/NAME."""
    from pipelines.batch.publishing import publish_rows
    from pipelines.batch.taking_up import named_job
    from pipelines.settings import load_settings

    output = named_job(job).output
    published = publish_rows(load_settings(registry), output, name, expectations)
    text = f"{published.folder} at {published.commit[:12]}, {published.expectations} checks hold"
    console.show(published._asdict(), json, text)
