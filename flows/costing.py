"""A cost record from a finished job, published in the registry."""

from __future__ import annotations

from pathlib import Path

from evals.cost_measurement import Price, measured_cost
from evals.costs import CostRecord
from pipelines.batch.finished import finished_job
from pipelines.canonical import write_record
from pipelines.errors import UnknownName
from pipelines.models_file import load_models
from pipelines.records import ManifestRecord, read_record
from pipelines.settings import Settings
from pipelines.store.registry import Layout
from pipelines.store.workspace import open_workspace


def publish_cost(
    settings: Settings, name: str, output: str, price: tuple[float, str, str]
) -> CostRecord:
    """Measure what the model `name` costs by a finished job of it, and publish costs/NAME.json.

    `price` is US dollars an hour, where they are from, and the machine ('' for this one). Raises
    UnknownName, JobNotFinished, DigestMismatch for a job of other weights, and UnusableEvidence for
    a job that was not done in one run.
    """
    job = finished_job(output)
    with open_workspace(settings) as workspace:
        models = load_models(workspace.root)
        if name not in models.weights():
            path = workspace.root / "models.yaml"
            raise UnknownName(path, "model or tuning", name, models.weights())
        workspace.restore(f"evidence/{name}/origin")
        layout = Layout(workspace.root)
        manifest = read_record(layout.origin(name) / "manifest.json", ManifestRecord)
        usd_per_hour, source, machine = price
        asked = Price(usd_per_hour=usd_per_hour, source=source, machine=machine)
        record = measured_cost(job, manifest.weight_digest, asked)

        def apply(root: Path) -> list[str]:
            folder = root / "costs"
            folder.mkdir(exist_ok=True)
            write_record(folder / f"{name}.json", record)
            return []

        workspace.change(f"Cost of {name}", apply)
    return record
