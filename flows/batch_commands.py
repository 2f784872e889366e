"""`weighbridge batch …`: jobs from a file, without a form."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import batch_recall_commands, batch_samples, batch_use_commands, console
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.batch.records import BatchManifest, BatchStatus


class Format(StrEnum):
    """What `export` writes; openai: result lines of the OpenAI batch format."""

    jsonl = "jsonl"
    csv = "csv"
    openai = "openai"


app = typer.Typer(
    help="Batch inference: plan, run, watch, cancel and export jobs.", no_args_is_help=True
)

Job = Annotated[str, typer.Argument(help="A job as YAML (docs/batch.md has one), or its output.")]
Workers = Annotated[int, typer.Option(min=1, help="Engines on this machine.")]
Worker = Annotated[
    str | None,
    typer.Option(help="Run one worker of several here, as 1/3; the others run elsewhere."),
]
Registry = Annotated[Path | None, typer.Option("--registry", "-r", help="The registry's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the first 20 documents; nothing is written or planned."),
]


@app.command()
def plan(
    job: Job,
    workers: Workers = 1,
    dry_run: DryRun = False,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Read the corpus, count tokens, estimate time and cost; no engine is started."""
    if dry_run:
        batch_samples.show(job, registry, answers=False, json=json)
        return
    from flows.batch_model import answering, egress_rules
    from pipelines.batch.job_index import add_to_index, similar_jobs
    from pipelines.batch.limits import check_planned, price_usd_per_hour
    from pipelines.batch.plan import plan as make
    from pipelines.batch.taking_up import named_job
    from pipelines.batch.throughput import estimate
    from pipelines.settings import load_settings

    settings, request = load_settings(registry), named_job(job)
    price = price_usd_per_hour(request.limits)
    with answering(settings, request.model, request.adapter) as model:
        made = make(request, model, egress_rules(settings))
    similar = similar_jobs(settings.home, request.output, made)
    add_to_index(settings.home, request.output, made)
    expected = estimate(settings.home, made, workers, price)
    facts = batch_samples.plan_facts(made, expected)
    rows = [[fact, str(value)] for fact, value in facts.items()]
    for other in similar:
        differs = ", ".join(other.differs) or "nothing"
        state = "finished" if other.finished else "not finished"
        rows.append(["job over the same corpus", f"{other.output} ({state}); differs in {differs}"])
    rows += [["note", note] for note in made.notes]
    data = {
        **facts,
        "estimate": expected and expected.model_dump(mode="json"),
        "similar": [other.model_dump(mode="json") for other in similar],
    }
    console.show_table(f"Plan of {request.name}", ["fact", "value"], rows, data, json)
    least_usd = expected.usd.least if expected and expected.usd else None
    check_planned(made, request.limits, least_usd)


@app.command()
def run(
    job: Job,
    workers: Workers = 1,
    worker: Worker = None,
    dry_run: DryRun = False,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Run a job to its end. Killed, the same command goes on where it stopped."""
    if dry_run:
        batch_samples.show(job, registry, answers=True, json=json)
        return
    _show_manifest(job, _run(job, workers, worker, registry), json)


@app.command()
def resume(
    job: Job,
    workers: Workers = 1,
    worker: Worker = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Go on with a job that was killed, cancelled or stopped by a limit; it must be planned."""
    from pipelines.batch.cancel import lift
    from pipelines.batch.store import open_store
    from pipelines.batch.taking_up import named_job, planned

    output = named_job(job).output
    planned(open_store(output))
    lift(output)
    _show_manifest(job, _run(job, workers, worker, registry), json)


@app.command()
def cancel(job: Job, json: Json = False) -> None:
    """Stop a job's workers, wherever they run, after what is in flight; `resume` goes on."""
    from pipelines.batch.cancel import cancel as stop
    from pipelines.batch.taking_up import named_job

    output = named_job(job).output
    cancelled = stop(output)
    text = "its workers stop within seconds" if cancelled else "nothing to cancel: it is finished"
    console.show({"output": output, "cancelled": cancelled}, json, f"{output}: {text}")


@app.command()
def status(job: Job, json: Json = False) -> None:
    """How far a job is, what it has cost and who works on it, read from its output alone."""
    from pipelines.batch.status import status as look
    from pipelines.batch.taking_up import named_job

    found = look(named_job(job).output)
    rows = [[fact, value] for fact, value in _facts(found).items()]
    columns = ["fact", "value"]
    console.show_table(f"Job {found.name}", columns, rows, found.model_dump(mode="json"), json)


@app.command()
def export(
    job: Job,
    target: Annotated[Path, typer.Argument(help="The file to write.")],
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Without it, csv for a .csv file, else jsonl."),
    ] = None,
    documents: Annotated[
        bool,
        typer.Option(
            "--documents", help="One row a document: leave out chunks that were combined."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Write the rows of a finished job to one file, each shard checked against the manifest."""
    from pipelines.batch.export import export as write
    from pipelines.batch.taking_up import named_job

    output = named_job(job).output
    rows = write(output, target, form.value if form else None, documents=documents)
    console.show({"rows": rows, "file": str(target)}, json, f"{rows} rows written to {target}")


app.command()(batch_recall_commands.stale)
app.command()(batch_use_commands.shadow)
app.command()(batch_use_commands.publish)


def _run(job: str, workers: int, worker: str | None, registry: Path | None) -> BatchManifest:
    """Run a job, or find that it is done; weights are fetched only when something is left."""
    from flows.batch_model import answering, egress_rules, released
    from pipelines.batch.job_index import add_to_index
    from pipelines.batch.run import Crew, finished_batch, plan_or_take_up, run_planned
    from pipelines.batch.taking_up import named_job
    from pipelines.settings import load_settings

    settings, request, share = load_settings(registry), named_job(job), _share(worker)
    if (manifest := finished_batch(request, released(settings, request))) is not None:
        return manifest
    with answering(settings, request.model, request.adapter) as model:
        rules = egress_rules(settings)
        planned = plan_or_take_up(request, model, rules)
        add_to_index(settings.home, request.output, planned)
        return run_planned(
            request, model, planned, Crew(workers, share, history=settings.home, egress=rules)
        )


def _share(worker: str | None) -> tuple[int, int] | None:
    """'2/3' as (1, 3); raises ConfigError."""
    if worker is None:
        return None
    number, _, count = worker.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError("--worker", f"{worker!r} names no worker", "Write 1/3, 2/3 and 3/3.")
    return int(number) - 1, int(count)


def _show_manifest(job: str, manifest: BatchManifest, json: bool) -> None:
    failed = manifest.rows - manifest.rows_ok
    text = (
        f"{job}: {manifest.documents} documents, {manifest.rows} rows, "
        f"{manifest.rows_ok} answered, {failed} with an error"
    )
    console.show(manifest.model_dump(mode="json"), json, text)


def _facts(found: BatchStatus) -> dict[str, str]:
    from pipelines.progress import duration

    spent = found.spent
    return {
        "state": found.state,
        "rows committed": f"{found.rows_committed} of {found.rows}",
        **({"rows that combine chunks": str(found.reduced_rows)} if found.reduced_rows else {}),
        "rows in the journal": str(found.rows_journaled),
        "shards committed": f"{found.shards_committed} of {found.shards}",
        "errors": ", ".join(f"{n} {kind}" for kind, n in found.errors.items()) or "none",
        "tokens read": f"{spent.prompt_tokens}, {spent.cached_tokens} of them from cache",
        "tokens written": str(spent.completion_tokens),
        "time of workers": duration(spent.worker_s),
        "cost": "no price is known" if spent.usd is None else f"{spent.usd:.2f} USD",
        "workers alive": ", ".join(found.workers_alive) or "none",
        "rows a second": "-" if found.rows_per_s is None else f"{found.rows_per_s:.3g}",
        "time left": "-" if found.left_s is None else duration(found.left_s),
        "job": found.job_id,
    }
