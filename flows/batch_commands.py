"""`weighbridge batch …`: jobs from a file, without a form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console

if TYPE_CHECKING:
    from pipelines.batch.job import BatchJob
    from pipelines.batch.records import ModelOnDisk

app = typer.Typer(
    help="Batch inference: plan, run, watch and export a job file.", no_args_is_help=True
)

JobFile = Annotated[Path, typer.Argument(help="A job as YAML; docs/batch.md has one.")]
Registry = Annotated[Path | None, typer.Option("--registry", "-r", help="The registry's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@app.command()
def plan(job: JobFile, registry: Registry = None, json: Json = False) -> None:
    """Read the corpus, count tokens and fix the order; no engine is started."""
    from pipelines.batch.plan import plan as make

    with _model(job, registry) as (request, model):
        made = make(request, model)
    facts = {
        "documents": made.documents,
        "duplicate documents": made.duplicate_documents,
        "rows": made.rows,
        "rows that cannot be asked": sum(made.planned_errors.values()),
        "prompt tokens": made.prompt_tokens,
        "longest prompt in tokens": made.longest_prompt_tokens,
        "shards": len(made.shards),
    }
    rows = [[fact, str(value)] for fact, value in facts.items()]
    console.show_table(f"Plan of {request.name}", ["fact", "value"], rows, facts, json)


@app.command()
def run(
    job: JobFile,
    workers: Annotated[int, typer.Option(min=1, help="Engines on this machine.")] = 1,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Run a job to its end. Killed, the same command goes on where it stopped."""
    from pipelines.batch.run import run_batch

    with _model(job, registry) as (request, model):
        manifest = run_batch(request, model, workers=workers)
    failed = manifest.rows - manifest.rows_ok
    text = (
        f"{request.output}: {manifest.documents} documents, {manifest.rows} rows, "
        f"{manifest.rows_ok} answered, {failed} with an error"
    )
    console.show(manifest.model_dump(mode="json"), json, text)


@app.command()
def status(job: JobFile, json: Json = False) -> None:
    """How far a job is, read from its output alone."""
    from pipelines.batch.job import load_job
    from pipelines.batch.status import status as look

    found = look(load_job(job).output)
    rows = [[fact, str(value)] for fact, value in found.model_dump().items()]
    columns = ["fact", "value"]
    console.show_table(f"Job {found.name}", columns, rows, found.model_dump(mode="json"), json)


@app.command()
def export(
    job: JobFile,
    target: Annotated[Path, typer.Argument(help="JSON lines to write.")],
    json: Json = False,
) -> None:
    """Write the rows of a finished job as JSON lines, each shard checked against the manifest."""
    from pipelines.batch.export import export_jsonl
    from pipelines.batch.job import load_job

    rows = export_jsonl(load_job(job).output, target)
    console.show({"rows": rows, "file": str(target)}, json, f"{rows} rows written to {target}")


@contextmanager
def _model(job: Path, registry: Path | None) -> Iterator[tuple[BatchJob, ModelOnDisk]]:
    """The job and the release that it names, its weights re-hashed."""
    from pipelines.batch.job import load_job
    from pipelines.batch.records import ModelOnDisk
    from pipelines.releases import fetch_weights
    from pipelines.settings import load_settings

    request = load_job(job)
    with fetch_weights(load_settings(registry), request.model) as held:
        model = ModelOnDisk(
            name=request.model,
            weights=held.weights,
            weight_digest=held.release.weight_digest,
            template_sha256=held.release.template_sha256,
        )
        yield request, model
