"""`weighbridge batch stale`: what a revoked model wrote, and its replacement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console

if TYPE_CHECKING:
    from pipelines.batch.stale import StaleOutput
    from pipelines.settings import Settings

_COLUMNS = ["output", "job", "finished", "rows", "of", "in journals"]


def stale(
    locations: Annotated[
        list[str] | None,
        typer.Argument(help="Folders or s3:// prefixes to look through, besides the index."),
    ] = None,
    model_digest: Annotated[
        str, typer.Option(help="Weight digest of the revoked model, or of an adapter.")
    ] = "",
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Replace those rows with the current release's.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Engines on this machine.")] = 1,
    registry: Annotated[
        Path | None, typer.Option("--registry", "-r", help="The registry's folder.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of text.")
    ] = False,
) -> None:
    """Find every output that a revoked model wrote; with --rerun, replace only those rows."""
    from pipelines.batch.stale import find_stale, parse_digest
    from pipelines.settings import load_settings

    settings, digest = load_settings(registry), parse_digest(model_digest)
    found = find_stale(settings.home, locations or [], digest)
    if rerun:
        for output in found:
            _replace(settings, output, digest, workers)
    rows = [
        [
            one.output,
            one.name,
            "yes" if one.finished else "no",
            str(one.rows),
            str(one.rows_in_all),
            str(one.rows_journaled),
        ]
        for one in found
    ]
    what = "that had rows of" if rerun else "with rows of"
    title = f"Outputs {what} {digest[:12]}"
    data = [f.model_dump(mode="json") for f in found]
    console.show_table(title, _COLUMNS, rows, data, json)


def _replace(settings: Settings, output: StaleOutput, digest: str, workers: int) -> None:
    from flows.batch_model import answering, egress_rules, released
    from pipelines.batch.job_index import add_to_index
    from pipelines.batch.recall import rerun
    from pipelines.batch.run import Crew
    from pipelines.batch.store import open_store
    from pipelines.batch.taking_up import named_job, planned
    from pipelines.errors import ModelStillReleased

    job = named_job(output.output)
    current = released(settings, job)
    if digest in (current.weight_digest, current.adapter_digest):  # before weights are fetched
        raise ModelStillReleased(output.output, job.model, digest)
    with answering(settings, job.model, job.adapter) as model:
        manifest = rerun(output.output, digest, model, Crew(workers, egress=egress_rules(settings)))
    add_to_index(settings.home, output.output, planned(open_store(output.output)))
    replaced = manifest.recalls[-1].rows if manifest.recalls else 0
    console.note(f"{output.output}: {replaced} rows replaced by {model.name}")
