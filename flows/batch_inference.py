"""Batch inference: one question about every document of a corpus, answered by a release."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, cast

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Cancelled
from pydantic import Field

from flows.batch_model import answering, egress_rules
from flows.guards import refuse_endless_restarts
from flows.parameters import (
    BatchForm,
    DocumentsForm,
    Fields,
    FreeText,
    JobForm,
    OneLabel,
    QuestionForm,
)
from flows.reports import publish_report, publish_table
from flows.run_progress import RunProgress
from pipelines.batch.cancel import cancelled_at, lift
from pipelines.batch.job import BatchJob, Chunking, Classification, Corpus, Prompt
from pipelines.batch.job_index import add_to_index
from pipelines.batch.records import BatchManifest
from pipelines.batch.settings import Sampling
from pipelines.canonical import Frozen, canonical_json, sha256_bytes
from pipelines.errors import JobCancelled
from pipelines.settings import Settings, load_settings

_TEXT = "{{ text }}"
LABEL = "category"
_NAMES_TEXT = re.compile(r"\{\{[^}]*\btext\b")
# The report quotes answers, and what is stored on the Prefect server everyone there can read.
SHOWN_IN_UI: frozenset[Classification] = frozenset({"public", "internal"})


class BatchResult(Frozen):
    """A finished job and where its rows lie."""

    output: str
    manifest: BatchManifest


@flow(name="batch-inference", flow_run_name="ask {job.model} about {documents.path}")
def batch_inference(
    documents: Annotated[DocumentsForm, Field(json_schema_extra={"title": "Documents"})],
    question: Annotated[QuestionForm, Field(json_schema_extra={"title": "Question"})],
    job: Annotated[JobForm, Field(json_schema_extra={"title": "Job"})],
) -> BatchResult | State[BatchResult]:
    """Ask one question about every document of a folder.

    The results are Parquet files with one row per part of a document, and a manifest whose counts
    add up. A document that fails is a row with an error, never a missing one. A job that was
    interrupted or cancelled goes on where it stopped when the same form is sent again.

    Args:
        documents: What to read.
        question: What to ask.
        job: Who answers.
    """
    refuse_endless_restarts()
    form = BatchForm(documents=documents, question=question, job=job)
    ended = run_job(load_settings(), form, return_state=True)
    if ended.is_cancelled():
        return Cancelled(message=ended.message)
    result = cast(BatchResult, ended.result())
    manifest = result.manifest
    key = f"batch-{Path(result.output).name}"
    answered = f"{manifest.rows_ok} of {manifest.rows} rows answered"
    publish_table(key, _rows(result), f"{answered}; results in {result.output}")
    if manifest.classification in SHOWN_IN_UI:
        publish_report(f"{key}-report", Path(result.output) / "report.md", f"Job {manifest.name}")
    return result


@task(name="batch", task_run_name="batch {form.job.model}", cache_policy=NO_CACHE)
def run_job(settings: Settings, form: BatchForm) -> BatchResult | State[BatchResult]:
    """Fetch and re-hash the release's weights, then plan and run the job to its end.

    Ends as cancelled when somebody cancelled the job (`weighbridge batch cancel`).
    """
    from pipelines.batch.run import Crew, plan_or_take_up, run_planned

    with answering(settings, form.job.model) as model:
        job = make_job(form, settings.jobs, model.weight_digest)
        log = get_run_logger()
        log.info("results go to %s", job.output)
        _lift_earlier_cancel(job.output)
        rules = egress_rules(settings)
        planned = plan_or_take_up(job, model, rules)
        add_to_index(settings.home, job.output, planned)
        with RunProgress(log, f"progress {job.name}") as progress:
            try:
                crew = Crew(on_progress=progress.report, history=settings.home, egress=rules)
                manifest = run_planned(job, model, planned, crew)
            except JobCancelled as cancelled:
                return Cancelled(message=str(cancelled))
        return BatchResult(output=job.output, manifest=manifest)


def _lift_earlier_cancel(output: str) -> None:
    """Whoever sends the form again wants the job; a run that crashed and came back does not ask."""
    started, at = flow_run.scheduled_start_time, cancelled_at(output)
    if at is not None and started is not None and at < started:
        lift(output)


def make_job(form: BatchForm, jobs: Path, weight_digest: str) -> BatchJob:
    """The job that a form means; its output is a folder of `jobs`.

    A job without a name is named by its content and the weights that answer it, so that the same
    request continues the same job and a new release starts another.
    """
    documents, question = form.documents, form.question
    content = {**form.model_dump(mode="json"), "weights": weight_digest}
    line = form.job.model.partition("@")[0]
    name = form.job.name or f"{line}-{sha256_bytes(canonical_json(content))[:12]}"
    return BatchJob(
        name=name,
        model=form.job.model,
        corpus=Corpus(
            path=Path(documents.path),
            kind="jsonl" if documents.path.endswith(".jsonl") else "folder",
        ),
        classification=documents.classification,
        prompt=Prompt(template=prompt_template(question)),
        output_schema=output_schema(question),
        sampling=Sampling(max_tokens=question.max_tokens),
        chunking=Chunking(tokens=documents.part_tokens, first=documents.first_parts),
        output=str(jobs / name),
    )


def prompt_template(question: QuestionForm) -> str:
    """The question as a template: what the answer must be, if it does not say so, then the text."""
    template, answer = question.prompt, question.answer
    if isinstance(answer, OneLabel) and not all(label in template for label in answer.labels):
        template = f"{template}\n\nAnswer with one of: {', '.join(answer.labels)}."
    if isinstance(answer, FreeText):
        template = f"{template}\n\nAnswer in at most {answer.words} words."
    return template if _NAMES_TEXT.search(template) else f"{template}\n\n{_TEXT}"


def output_schema(question: QuestionForm) -> dict[str, Any] | None:
    """The JSON Schema that every answer must fit, or None for free text."""
    answer = question.answer
    if isinstance(answer, OneLabel):
        return {
            "type": "object",
            "properties": {LABEL: {"enum": list(answer.labels)}},
            "required": [LABEL],
            "additionalProperties": False,
        }
    if isinstance(answer, Fields):
        schema: dict[str, Any] = json.loads(answer.json_schema)
        return schema
    return None


def _rows(result: BatchResult) -> list[dict[str, str]]:
    manifest = result.manifest
    facts = {
        "results": result.output,
        "model": f"{manifest.model}, weights {manifest.weight_digest[:12]}",
        "documents": str(manifest.documents),
        "documents with errors": str(manifest.documents_with_errors),
        "rows": str(manifest.rows),
        "rows answered": str(manifest.rows_ok),
        **{f"rows with error {kind}": str(count) for kind, count in manifest.errors.items()},
        "tokens read": str(manifest.tokens.prompt),
        "tokens written": str(manifest.tokens.completion),
        "classification": manifest.classification,
    }
    return [{"fact": fact, "value": value} for fact, value in facts.items()]
