"""`weighbridge egress`: what left this machine, and whether the log of it holds together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.options import Json, Registry

app = typer.Typer()


@app.command()
def egress(
    log: Annotated[
        Path | None, typer.Argument(help="A log. Default: the one of the registry's home.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the last lines to show.")] = 50,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """List the objects that batch jobs sent elsewhere; exit 1 when the log was changed or cut."""
    from pipelines.batch.destinations import LOG
    from pipelines.batch.egress import read_log
    from pipelines.settings import load_settings

    path = log or load_settings(registry).home / LOG
    lines = read_log(path)
    columns = [
        "at",
        "user",
        "classification",
        "destination",
        "place",
        "object",
        "bytes",
        "redacted",
    ]
    rows = [
        [
            f"{line.at:%Y-%m-%d %H:%M:%S}",
            line.user,
            line.classification,
            line.destination,
            line.place,
            line.object,
            str(line.size_bytes),
            ", ".join(f"{count} {rule}" for rule, count in line.redacted.items()) or "-",
        ]
        for line in lines[-last:]
    ]
    title = f"{path}: {len(lines)} objects left, the chain holds"
    data = {"log": str(path), "objects": [line.model_dump(mode="json") for line in lines]}
    console.show_table(title, columns, rows, data, json)
