"""What the parts of a batch job tell each other, and what they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.batch.job import BatchJob, Classification, Prompt, Sampling
from pipelines.canonical import Frozen

PROTOCOL = 1  # part of a job's identity: raise it when text extraction or prompt assembly change

ErrorClass = Literal[
    # found while planning; the engine never sees the row
    "unreadable",  # the file cannot be opened
    "too_large",  # more bytes than corpus.max_document_bytes
    "not_text",  # holds a zero byte, or characters that no text has
    "invalid_utf8",
    "invalid_line",  # a line that is not a JSON object with an id
    "empty",
    "missing_field",  # the prompt names a field that this document lacks
    "prompt_failed",  # the prompt or the chat template raised
    "too_long",  # prompt and longest answer do not fit the context
    # found while running
    "document_changed",  # other bytes than were planned, or none
    "request_refused",  # the engine's own check of this request
    "engine_error",  # the engine gave the request up
    "cut_at_max_tokens",  # an answer under a schema that reached the limit
    "invalid_json",
    "schema_violation",
]


class ModelOnDisk(Frozen):
    """The model that a reference was resolved to; whoever makes one has re-hashed the weights."""

    name: str = Field(description="as the user named it, e.g. 'licence-triage@production'")
    weights: Path = Field(description="the folder with weights and tokenizer")
    weight_digest: str
    template_sha256: str = Field(description="of the chat template's UTF-8 text, '' if none")


class PlannedShard(Frozen):
    """Rows `start` to `stop` (exclusive) of a job, listed in one Parquet object of the plan."""

    start: int
    stop: int
    sha256: str


class JobPlan(Frozen):
    """A planned job: what is asked, of what, in which order. Written once as job.json."""

    kind: Literal["job"] = "job"
    job_id: str = Field(description="sha256 of the canonical `identity`")
    identity: dict[str, str] = Field(
        description="everything that changes results, by part; equal identity is the same job"
    )
    job: BatchJob = Field(description="as first planned; limits and engine may differ later")
    output_schema: str = Field(
        description="as JSON text, in its own order: the order in which a model writes"
    )
    model: str
    weight_digest: str
    template_sha256: str
    prompt_sha256: str
    prompt_form: Literal["chat", "text"] = Field(
        description="chat: through the model's chat template. text: it has none"
    )
    max_model_len: int
    documents: int
    duplicate_documents: int = Field(description="documents whose content came before")
    cut_documents: int = Field(description="documents of which chunking.first left a part out")
    ignored_files: dict[str, int] = Field(description="files that are no documents, by suffix")
    rows: int
    planned_errors: dict[str, int] = Field(description="rows that fail before any engine runs")
    prompt_tokens: int
    longest_prompt_tokens: int
    notes: tuple[str, ...] = ()
    shards: tuple[PlannedShard, ...]

    def rows_in(self, shard: int) -> int:
        """How many rows a shard holds."""
        return self.shards[shard].stop - self.shards[shard].start


class ShardEntry(Frozen):
    """One committed shard, as read back from the output."""

    name: str
    sha256: str
    size_bytes: int
    rows: int


class Tokens(Frozen):
    """What the engine was sent and what it wrote, over all attempts."""

    prompt: int
    completion: int
    cached: int = Field(description="prompt tokens found in the engine's prefix cache")


class BatchManifest(Frozen):
    """A finished job: every document accounted for. Written last, as manifest.json."""

    kind: Literal["batch"] = "batch"
    job_id: str
    name: str
    model: str
    weight_digest: str
    template_sha256: str
    prompt: Prompt
    prompt_sha256: str
    schema_sha256: str = Field(description="of the plan's `output_schema`, '' if it is null")
    sampling: Sampling
    max_model_len: int
    corpus_sha256: str = Field(description="of the listing: every document's id and sha256")
    classification: Classification
    destination: Literal["local engine"] = "local engine"
    engines: dict[str, int] = Field(description="engine and version to the rows it answered")
    documents: int
    documents_with_errors: int = Field(description="documents with an error in any row")
    duplicate_documents: int
    cut_documents: int
    ignored_files: dict[str, int]
    rows: int
    rows_ok: int
    errors: dict[str, int] = Field(description="error class to rows; with rows_ok adds up to rows")
    attempts: int
    tokens: Tokens
    shards: tuple[ShardEntry, ...]


class WorkerRequest(Frozen):
    """What a worker process is asked to do."""

    job: BatchJob
    model: ModelOnDisk
    journal: Path
    worker: int = 0
    workers: int = 1


class Stopped(Frozen):
    """Why a worker ended before its work was done: one of our errors, to be raised again."""

    error: str = Field(description="name of the class in pipelines.errors")
    message: str


class WorkerReport(Frozen):
    """What a worker process did; times in seconds, for run.json."""

    rows_generated: int = 0
    rows_resumed: int = Field(default=0, description="found in journals")
    shards_committed: int = 0
    shards_lost: int = Field(default=0, description="finished, but another worker was first")
    engine: str = Field(default="", description="'' when none was started")
    engine_start_s: float = 0.0
    generate_s: float = Field(default=0.0, description="engine started to last answer")
    stepping_s: float = Field(default=0.0, description="of these, inside the engine")
    cpu_s: float = 0.0
    stopped: Stopped | None = None


class BatchStatus(Frozen):
    """How far a job is; `rows_committed` can be relied on, `rows_journaled` survive a restart."""

    job_id: str
    name: str
    finished: bool
    shards: int
    shards_committed: int
    rows: int
    rows_committed: int
    rows_journaled: int
