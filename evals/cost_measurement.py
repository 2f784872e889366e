"""A cost record from a finished batch job: its tokens, the time of its engine, and a price.

Apart from evals.costs, so that the gate's code does not rest on the batch engine's.
"""

from __future__ import annotations

from datetime import datetime

from evals.costs import CostRecord
from pipelines.batch.finished import Finished
from pipelines.batch.layout import RUN
from pipelines.batch.throughput import hardware
from pipelines.canonical import Frozen, record_bytes, sha256_bytes
from pipelines.errors import DigestMismatch, UnusableEvidence
from pipelines.records import RunInfo, parse_record


class Price(Frozen):
    """What an hour of a machine costs; '' for the machine that asks."""

    usd_per_hour: float
    source: str
    machine: str = ""


def measured_cost(job: Finished, weight_digest: str, price: Price) -> CostRecord:
    """The cost of the weights by a finished job that they answered in one run.

    Prompt tokens that came from the engine's prefix cache count as read. Raises DigestMismatch when
    other weights (or an adapter on them) answered, UnusableEvidence when the time of the job is
    that of several runs, or nothing was generated.
    """
    manifest, where = job.manifest, job.store.location
    if manifest.weight_digest != weight_digest or manifest.adapter_digest or manifest.recalls:
        answered = manifest.adapter_digest or manifest.weight_digest
        raise DigestMismatch(f"weights that answered {where}", weight_digest, answered)
    data = job.store.read(RUN)
    if data is None:
        raise UnusableEvidence(where, f"it has no {RUN}", "Measure on a job that has one.")
    info = parse_record(data, f"{where}/{RUN}", RunInfo)
    seconds, rows = float(info.details["generate_s"]), int(info.details["rows_generated"])
    answered_rows = sum(manifest.engines.values())
    if not seconds or rows < answered_rows:
        fact = f"its last run generated {rows} of {answered_rows} rows"
        raise UnusableEvidence(where, fact, "Measure on a job that was done in one run.")
    return CostRecord(
        weight_digest=weight_digest,
        engine=", ".join(manifest.engines),
        machine=price.machine or hardware(),
        price_usd_per_hour=price.usd_per_hour,
        price_source=price.source,
        prompt_tokens=manifest.tokens.prompt,
        generated_tokens=manifest.tokens.completion,
        seconds=seconds,
        measured_on=datetime.fromisoformat(info.finished_at).date(),
        measurement_sha256=sha256_bytes(record_bytes(manifest)),
    )
