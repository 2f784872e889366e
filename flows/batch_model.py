"""Who answers a batch job: its release, and its adapter's, resolved for the job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipelines.batch.adapter_release import adapter_digest, fetch_adapter
from pipelines.batch.destinations import LOG, EgressRules, load_destinations
from pipelines.batch.job import BatchJob
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.taking_up import Answerer
from pipelines.releases import fetch_weights, resolve_release
from pipelines.settings import Settings
from pipelines.store.workspace import open_workspace


def released(settings: Settings, job: BatchJob) -> Answerer:
    """The digests of the releases that a job names, their signatures checked; no weights."""
    release = resolve_release(settings, job.model)
    adapter = adapter_digest(settings, job.adapter) if job.adapter else ""
    return Answerer(
        weight_digest=release.weight_digest,
        template_sha256=release.template_sha256,
        adapter_digest=adapter,
    )


def egress_rules(settings: Settings) -> EgressRules:
    """The registry's policy for what leaves this machine, as origin holds it, and this log."""
    with open_workspace(settings) as workspace:
        policy = load_destinations(workspace.root)
    return EgressRules(policy=policy, log=settings.home / LOG)


@contextmanager
def answering(
    settings: Settings, model: str, adapter_name: str | None = None
) -> Iterator[ModelOnDisk]:
    """The weights that answer a job, fetched and re-hashed; gone when the block ends."""
    with ExitStack() as stack:
        held = stack.enter_context(fetch_weights(settings, model))
        adapter = None
        if adapter_name is not None:
            adapter = stack.enter_context(fetch_adapter(settings, adapter_name, held.release))
        yield ModelOnDisk(
            name=model,
            weights=held.weights,
            weight_digest=held.release.weight_digest,
            template_sha256=held.release.template_sha256,
            adapter=adapter,
        )
