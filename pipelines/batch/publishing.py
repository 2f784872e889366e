"""Publish: a finished job's rows into the registry, versioned by DVC, after their checks.

`outputs/NAME/` holds the shards and the manifest as the job wrote them, so that every row still
names the weights behind it. Publishing another job under the same name is a new version of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from pipelines.batch.destinations import FOLDER, DestinationPolicy, Place, load_destinations
from pipelines.batch.finished import Finished, finished_job
from pipelines.batch.job import is_s3
from pipelines.batch.layout import MANIFEST
from pipelines.batch.row_checks import check_rows
from pipelines.canonical import record_bytes, write_bytes, write_record
from pipelines.errors import NotRedacted
from pipelines.references import check_name
from pipelines.settings import Settings
from pipelines.store.workspace import Workspace, open_workspace

CHECKS = "checks.json"


class Published(NamedTuple):
    """Where rows went; `commit` is the registry's."""

    folder: str
    commit: str
    expectations: int


def publish_rows(
    settings: Settings, output: str, name: str, expectations: Path | None
) -> Published:
    """Check a finished job's rows and put them into the registry as outputs/NAME.

    Raises JobNotFinished, ExpectationsFailed, DestinationRefused and NotRedacted (the DVC remote is
    a destination too), BadName; then nothing is published.
    """
    check_name(name)
    job = finished_job(output)
    with open_workspace(settings) as workspace:
        _check_remote(workspace, job)
        checks = check_rows(job, expectations) if expectations is not None else None
        folder = f"outputs/{name}"

        def apply(root: Path) -> list[str]:
            target = root / folder
            if target.exists():
                shutil.rmtree(target)
            for entry, data in job.shards():
                write_bytes(target / Path(entry.name).name, data)
            write_bytes(target / MANIFEST, record_bytes(job.manifest))
            if checks is not None:
                write_record(target / CHECKS, checks)
            workspace.dvc("add", "--quiet", folder)
            workspace.dvc("push", "--quiet", f"{folder}.dvc")
            return []

        commit = workspace.change(f"Publish {name}: {job.manifest.name}", apply)
    return Published(folder, commit, len(checks.results) if checks else 0)


def _check_remote(workspace: Workspace, job: Finished) -> None:
    policy = load_destinations(workspace.root)
    config = workspace.dvc.settings()
    remote = config.get("core.remote", "")
    url = config.get(f"remote.{remote}.url", "")
    place = Place(url, config.get(f"remote.{remote}.endpointurl", "")) if is_s3(url) else None
    check_place(policy, job, place or Place(FOLDER))


def check_place(policy: DestinationPolicy, job: Finished, place: Place) -> None:
    """Raises DestinationRefused or NotRedacted when a job's rows may not go there as they are."""
    classification = job.manifest.classification
    destination = policy.check(classification, place)
    lacking = set(policy.rules(classification, destination)) - set(job.manifest.redacted)
    if lacking:
        raise NotRedacted(job.store.location, destination, sorted(lacking))
