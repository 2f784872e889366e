"""Dry run: the first documents of a job as the model would read them, and what it answers.

The real job over a few documents, in a folder that is thrown away: nothing is written to the job's
own output, nor anything committed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from pipelines.batch.corpus import CorpusReader, Document
from pipelines.batch.export import finished_rows
from pipelines.batch.job import BatchJob, Limits
from pipelines.batch.layout import plan_name
from pipelines.batch.plan import plan
from pipelines.batch.prompt import PromptBuilder
from pipelines.batch.records import JobPlan, ModelOnDisk
from pipelines.batch.reduction import Reducer
from pipelines.batch.rows import PlannedRow, read_planned, row_id
from pipelines.batch.run import WORKER, Crew, run_planned
from pipelines.batch.store import open_store
from pipelines.batch.text import DocumentError
from pipelines.batch.tokens import ModelTokenizer
from pipelines.canonical import Frozen

DOCUMENTS = 20


class Sample(Frozen):
    """One row of a dry run."""

    id: str
    prompt: str = Field(description="as the model reads it; '' for a row that cannot be asked")
    prompt_tokens: int
    answer: str | None = Field(default=None, description="None where no engine was asked")
    error: str | None = None


def dry_run(
    job: BatchJob,
    model: ModelOnDisk,
    *,
    answers: bool,
    documents: int = DOCUMENTS,
    worker_module: str = WORKER,
) -> list[Sample]:
    """Prompts of the first documents and, with `answers`, what an engine started for them says.

    Raises what `plan` and `run_batch` raise, but for too many errors: they are what is shown.
    """
    few = min(documents, job.corpus.first or documents)
    with tempfile.TemporaryDirectory(prefix="weighbridge-dry-run-") as folder:
        trial = job.model_copy(
            update={
                "corpus": job.corpus.model_copy(update={"first": few}),
                "limits": Limits(max_error_rate=1.0),
                "tokens": "count",
                "output": str(Path(folder, "out")),
            }
        )
        planned = plan(trial, model)
        if not answers:
            rows = _prompts(trial, model, planned, answered=False)
            return [_sample(row, prompt, None, error) for row, (prompt, error) in rows]
        manifest = run_planned(trial, model, planned, Crew(module=worker_module))
        prompts = list(_prompts(trial, model, planned, answered=True))
        answered = {row["row"]: row for row in finished_rows(open_store(trial.output), manifest)}
    return [
        _sample(row, prompt, answered[row.row]["raw_text"], answered[row.row]["error_message"])
        for row, (prompt, _) in prompts
    ]


def _prompts(
    job: BatchJob, model: ModelOnDisk, planned: JobPlan, *, answered: bool
) -> Iterator[tuple[PlannedRow, tuple[str, str | None]]]:
    """Each planned row with its prompt, or with '' and the error that it has instead.

    Rows that combine others show their template until those are `answered`.
    """
    store = open_store(job.output)
    tokenizer = ModelTokenizer(model.weights, chat=job.task == "generate")
    builder = PromptBuilder(job.prompt, tokenizer)
    reducer = Reducer(job, planned, store, tokenizer) if job.reduce and answered else None
    with CorpusReader(job.corpus) as reader:
        for index in range(len(planned.shards)):
            data = store.read(plan_name(planned.job_id, index))
            assert data is not None  # written a moment ago
            for row in read_planned(data):
                if row.error_class is not None:
                    yield row, ("", row.error_message)
                    continue
                if row.chunk < 0 and not row.parts:
                    yield row, ("", f"a copy of row {row.copy_of}")
                    continue
                if row.parts and reducer is None:
                    yield row, (job.reduce.template if job.reduce else "", None)
                    continue
                try:
                    yield row, (_prompt(reader, builder, reducer, row), None)
                except DocumentError as error:
                    yield row, ("", str(error))


def _prompt(
    reader: CorpusReader, builder: PromptBuilder, reducer: Reducer | None, row: PlannedRow
) -> str:
    def read(row: PlannedRow) -> Document:
        return reader.reread(row.source, row.offset, row.document_sha256, row.document_id)

    if row.parts and reducer is not None:
        return reducer.prompt(row, read)
    document = read(row)
    text = document.text[row.start : row.end]
    return builder.build(document, text, row.chunk, row.chunks)


def _sample(row: PlannedRow, prompt: str, answer: str | None, error: str | None) -> Sample:
    return Sample(
        id=row_id(row.document_id, row.chunk),
        prompt=prompt,
        prompt_tokens=row.prompt_tokens,
        answer=answer,
        error=error,
    )
