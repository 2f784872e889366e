"""Promote: from a passing verdict to a signed release."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.guards import refuse_endless_restarts
from flows.parameters import ModelName
from flows.reports import publish_table
from pipelines.records import Release
from pipelines.settings import load_settings

Stage = Literal["production", "staging"]


@flow(name="promote", flow_run_name="promote {candidate}")
def promote(
    candidate: Annotated[ModelName, Field(json_schema_extra={"title": "Candidate"})],
    stage: Annotated[Stage, Field(json_schema_extra={"title": "Stage"})] = "production",
) -> Release:
    """Release a candidate that its gate has passed.

    Everything is proved again from the registry and the remote alone: the verdict is current and
    passing, the weights hash to it, their signature holds, the baseline is what is in production.

    Args:
        candidate: Name of a model with a passing verdict.
        stage: What the release becomes.
    """
    refuse_endless_restarts()
    release = write_release(candidate, stage)
    publish_table(
        f"promoted-{release.release}",
        [{"fact": key, "value": value} for key, value in _facts(release).items()],
        f"{release.release}@{stage} is {release.version}",
    )
    return release


@task(name="promote", task_run_name="promote {candidate} to {stage}", cache_policy=NO_CACHE)
def write_release(candidate: str, stage: str) -> Release:
    """Promote in a fresh clone with an empty cache; raises PromotionRefused and its kin."""
    from pipelines.promotion import promote as write

    release = write(load_settings(), candidate, stage)
    get_run_logger().info("%s@%s is %s: %s", release.release, stage, release.version, release.model)
    return release


def _facts(release: Release) -> dict[str, str]:
    return {
        "release": f"{release.release}@{release.stage}",
        "version": release.version,
        "model": release.model,
        "weight digest": release.weight_digest,
        "supersedes": release.supersedes or "nothing",
        "verdict sha256": release.verdict_sha256,
        "registry commit": release.commit,
        "approved by": ", ".join(release.approvers) or "policy asks for no approval",
    }
