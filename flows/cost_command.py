"""`weighbridge cost`: what a model costs to run, measured on a finished job, as evidence."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import console
from flows.options import Json, ModelName, Registry

app = typer.Typer()


@app.command()
def cost(
    name: ModelName,
    job: Annotated[str, typer.Option(help="A finished batch job of it: its file, or its output.")],
    usd_per_hour: Annotated[
        float, typer.Option(min=0.000001, help="Price of an hour of the machine it ran on.")
    ],
    price_source: Annotated[
        str, typer.Option(help="Where the price is from, e.g. 'EC2 price list, 2026-11-01'.")
    ],
    machine: Annotated[str, typer.Option(help="Default: this machine's hardware.")] = "",
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Write costs/NAME.json, which a gate with `max_cost_usd_per_mtok` asks for, and publish it."""
    from flows.costing import publish_cost
    from pipelines.batch.taking_up import named_job
    from pipelines.settings import load_settings

    output = named_job(job).output
    record = publish_cost(
        load_settings(registry), name, output, (usd_per_hour, price_source, machine)
    )
    text = (
        f"{name}: {record.tokens_per_second:,.0f} tokens/s on {record.machine}, "
        f"{record.usd_per_mtok:.4f} USD a million tokens"
    )
    data = {**record.model_dump(mode="json"), "usd_per_mtok": record.usd_per_mtok}
    console.show(data, json, text)
