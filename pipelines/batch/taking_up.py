"""Taking up: the plan that an output location holds, told apart from another job's at no cost.

`plan` answers the same question, but has to load a tokenizer's modules and a schema's grammar to do
so. Here equal jobs are told by their equal parts, so that a job that is finished is known as such
within a second. Whatever is not plainly the same is left to `plan`, which says what differs.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from pipelines.batch.job import BatchJob, is_s3, load_job
from pipelines.batch.layout import JOB
from pipelines.batch.manifest import load_manifest
from pipelines.batch.records import PROTOCOL, JobPlan, ModelOnDisk
from pipelines.batch.store import OutputStore, open_store
from pipelines.batch.unchanged import known_digest
from pipelines.canonical import Frozen, canonical_json, sha256_bytes
from pipelines.errors import JobNotFinished, OutputDamaged

# What may differ between two runs of one job: it changes how the job runs, not what comes out.
_FREE = {"name", "model", "adapter", "output", "limits", "engine", "shard_rows", "corpus"}
# (the corpus and the context length are compared by themselves)


def load_plan(store: OutputStore) -> JobPlan | None:
    """The plan that an output location holds, if any; OutputDamaged when it cannot be read."""
    data = store.read(JOB)
    if data is None:
        return None
    try:
        return JobPlan.model_validate_json(data)
    except ValidationError as error:
        fact = f"not a job plan ({error.error_count()} problems)"
        raise OutputDamaged(store.location, JOB, fact) from error


class Answerer(Frozen):
    """What identifies who answers, without its bytes."""

    weight_digest: str
    template_sha256: str
    adapter_digest: str = ""


def answerer(model: ModelOnDisk) -> Answerer:
    """A model on this machine as its digests."""
    return Answerer(
        weight_digest=model.weight_digest,
        template_sha256=model.template_sha256,
        adapter_digest=model.adapter_digest,
    )


def take_up(job: BatchJob, model: Answerer) -> JobPlan | None:
    """The plan in a job's output location if it plainly is this job's; None when it may not be.

    The corpus counts as unchanged when every file of it looks as it did when it was last read.
    Raises OutputDamaged when the plan cannot be read.
    """
    store = open_store(job.output)
    plan = load_plan(store)
    if plan is None or plan.identity.get("protocol") != str(PROTOCOL):
        return None
    ours, theirs = (j.model_dump(mode="json", exclude=_FREE) for j in (job, plan.job))
    same_question = (
        ours == theirs
        and _schema_text(job) == plan.output_schema
        and job.engine.max_model_len == plan.job.engine.max_model_len
        and job.corpus == plan.job.corpus
        and model in (_planned_answerer(plan), _recalled_answerer(store))
    )
    if same_question and known_digest(job.corpus) == plan.identity["corpus"]:
        return plan
    return None


def named_job(named: str) -> BatchJob:
    """The job in a YAML file, or the one that an output location (a folder, s3://…) holds.

    Of a location it is the job as it was first planned. Raises what `load_job` and `planned` raise.
    """
    if not is_s3(named) and not Path(named).is_dir():
        return load_job(Path(named))
    output = named if is_s3(named) else str(Path(named).absolute())
    return planned_job(planned(open_store(output)), output)


def planned_job(plan: JobPlan, output: str) -> BatchJob:
    """The job of a plan at `output`, its schema in its own order, which job.json does not keep."""
    schema = json.loads(plan.output_schema)
    return plan.job.model_copy(update={"output": output, "output_schema": schema})


def planned(store: OutputStore) -> JobPlan:
    """The plan in an output location; raises JobNotFinished when there is none."""
    plan = load_plan(store)
    if plan is None:
        raise JobNotFinished(store.location, f"there is no {JOB}: no job was planned here")
    return plan


def _planned_answerer(plan: JobPlan) -> Answerer:
    return Answerer(
        weight_digest=plan.weight_digest,
        template_sha256=plan.template_sha256,
        adapter_digest=plan.adapter_digest,
    )


def _schema_text(job: BatchJob) -> str:
    """As `OutputSchema.text`: in its own order, which equal mappings may differ in."""
    return json.dumps(job.output_schema, separators=(",", ":"), ensure_ascii=False)


def is_recalled_as(store: OutputStore, identity: dict[str, str]) -> bool:
    """Whether the output's revoked rows were replaced, and it now is the job of that identity."""
    manifest = load_manifest(store)
    if manifest is None or not manifest.recalls:
        return False
    return manifest.job_id == sha256_bytes(canonical_json(identity))  # as identity.job_id


def _recalled_answerer(store: OutputStore) -> Answerer | None:
    manifest = load_manifest(store)
    if manifest is None or not manifest.recalls:
        return None
    return Answerer(
        weight_digest=manifest.weight_digest,
        template_sha256=manifest.template_sha256,
        adapter_digest=manifest.adapter_digest,
    )
