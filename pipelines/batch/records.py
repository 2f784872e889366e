"""What the parts of a batch job tell each other, and what they leave behind."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.batch.destinations import EgressRules
from pipelines.batch.job import BatchJob, Classification, Prompt
from pipelines.batch.settings import Reduce, Sampling, Task
from pipelines.canonical import Frozen

PROTOCOL = 2  # part of a job's identity: raise it when text extraction or prompt assembly change

ErrorClass = Literal[
    # found while planning; the engine never sees the row
    "unreadable",  # the file cannot be opened
    "too_large",  # more bytes than corpus.max_document_bytes
    "not_text",  # holds a zero byte, or characters that no text has
    "invalid_utf8",
    "invalid_line",  # a line or row that is not an object with an id
    "broken_file",  # not a whole file of its format
    "encrypted",  # needs a password
    "no_text_layer",  # a PDF of pictures
    "extraction_failed",  # the reader of PDF or Word ran out of time or memory
    "unsupported_request",  # a request line that asks for what this engine does not do
    "empty",
    "missing_field",  # the prompt names a field that this document lacks
    "prompt_failed",  # the prompt or the chat template raised
    "too_long",  # prompt and longest answer do not fit the context; of answers: while running
    # found while running
    "document_changed",  # other bytes than were planned, or none
    "part_failed",  # a chunk whose answer this row should combine has none
    "request_refused",  # the engine's own check of this request
    "engine_error",  # the engine gave the request up
    "engine_died",  # the engine ended with this row alone in it, twice
    "cut_at_max_tokens",  # an answer under a schema that reached the limit
    "invalid_json",
    "schema_violation",
]


class AdapterOnDisk(Frozen):
    """A LoRA whose base is the model beside it; whoever makes one has re-hashed both."""

    name: str = Field(description="as the user named it, e.g. 'licence-triage@production'")
    folder: Path = Field(description="with adapter_config.json and adapter_model.safetensors")
    digest: str = Field(description="weight digest of the folder")


class ModelOnDisk(Frozen):
    """The model that a reference was resolved to; whoever makes one has re-hashed the weights."""

    name: str = Field(description="as the user named it, e.g. 'licence-triage@production'")
    weights: Path = Field(description="the folder with weights and tokenizer")
    weight_digest: str
    template_sha256: str = Field(description="of the chat template's UTF-8 text, '' if none")
    adapter: AdapterOnDisk | None = None

    @property
    def adapter_digest(self) -> str:
        """'' without an adapter."""
        return self.adapter.digest if self.adapter else ""


class Pooled(Frozen):
    """What a model gives instead of text: one list of numbers a row."""

    task: Task
    dimensions: int = Field(description="length of the list")
    labels: tuple[str, ...] = Field(default=(), description="classify: what each number is for")


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
    adapter_digest: str = ""
    prompt_form: Literal["chat", "text"] = Field(
        description="chat: through the model's chat template. text: it has none, or none applies"
    )
    pooled: Pooled | None = Field(default=None, description="for embed and classify")
    max_model_len: int
    documents: int
    duplicate_documents: int = Field(description="documents whose content came before")
    cut_documents: int = Field(description="documents that are not asked about to their end")
    ignored_files: dict[str, int] = Field(description="files that are no documents, by suffix")
    media_types: dict[str, int] = Field(default={}, description="media type to documents")
    languages: dict[str, int] = Field(default={}, description="ISO 639-1 code to documents")
    rows: int
    planned_errors: dict[str, int] = Field(description="rows that fail before any engine runs")
    prompt_tokens: int
    longest_prompt_tokens: int
    estimated_prompts: int = Field(default=0, description="whose tokens were not counted")
    most_completion_tokens: int = Field(default=0, description="if every answer is the longest")
    request_url: str = Field(default="", description="of OpenAI lines: the endpoint they name")
    first_copy_shard: int = Field(
        description="from here on rows are copies of others; they are asked of no engine"
    )
    first_reduced_shards: tuple[int, ...] = Field(
        default=(), description="from each on, rows combine rows of the shards before it"
    )
    reduced_prompt_tokens: int = Field(
        default=0, description="of rows that combine others, if every answer is the longest"
    )
    reduce_sha256: str = Field(default="", description="of the prompt that combines, '' if none")
    notes: tuple[str, ...] = ()
    shards: tuple[PlannedShard, ...]

    def passes(self) -> tuple[range, ...]:
        """The shards that an engine is asked, pass after pass: each needs all rows before it."""
        borders = [0, *self.first_reduced_shards, self.first_copy_shard]
        return tuple(range(first, after) for first, after in pairwise(borders))

    @property
    def reduced_rows(self) -> int:
        """How many rows combine others; their copies are not counted."""
        return sum(self.rows_in(index) for shards in self.passes()[1:] for index in shards)

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


class Recall(Frozen):
    """Rows of a revoked model that another one replaced."""

    revoked: str = Field(description="digest of the weights or of the adapter")
    rows: int = Field(description="rows that were asked again")
    weight_digest: str = Field(description="of the model that answered them")
    adapter_digest: str = ""
    replaced_manifest_sha256: str = Field(description="'' for a job that had none yet")


class BatchManifest(Frozen):
    """A finished job: every document accounted for. Written last, as manifest.json."""

    kind: Literal["batch"] = "batch"
    job_id: str
    name: str
    model: str
    weight_digest: str
    adapter_digest: str = ""
    template_sha256: str
    prompt: Prompt
    prompt_sha256: str
    schema_sha256: str = Field(description="of the plan's `output_schema`, '' if it is null")
    sampling: Sampling
    max_model_len: int
    corpus_sha256: str = Field(description="of the listing: every document's id and sha256")
    classification: Classification
    destination: Literal["local engine"] = "local engine"
    redacted: tuple[str, ...] = Field(
        default=(), description="redaction rules that every shard was written under"
    )
    engines: dict[str, int] = Field(description="engine and version to the rows it answered")
    documents: int
    documents_with_errors: int = Field(description="documents with an error in any row")
    duplicate_documents: int
    cut_documents: int
    ignored_files: dict[str, int]
    rows: int
    reduce: Reduce | None = Field(default=None, description="the prompt that combined chunks")
    reduced_rows: int = Field(default=0, description="of `rows`; copies of them not counted")
    rows_ok: int
    errors: dict[str, int] = Field(description="error class to rows; with rows_ok adds up to rows")
    attempts: int
    tokens: Tokens
    recalls: tuple[Recall, ...] = Field(
        default=(), description="what was replaced; `model` and its digests are then the last ones"
    )
    rows_by_model: dict[str, int] = Field(
        default={}, description="weight digest to rows that it answered; after a recall only"
    )
    shards: tuple[ShardEntry, ...]


class WorkerRequest(Frozen):
    """What a worker process is asked to do."""

    job: BatchJob
    model: ModelOnDisk
    egress: EgressRules = Field(default_factory=EgressRules)
    journal: Path
    worker: int = 0
    workers: int = 1
    environment: dict[str, str] = Field(default={}, description="shows the worker its GPUs")
    in_flight: Path | None = Field(
        default=None, description="file that names the rows in the engine, for whoever finds it"
    )
    suspects: tuple[int, ...] = Field(
        default=(), description="rows that were in an engine that died: first, and few at a time"
    )
    suspects_at_once: int = 1
    killers: dict[int, str] = Field(
        default={}, description="rows that killed an engine alone, and how it ended"
    )


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
    occupancy: float = Field(
        default=0.0, description="share of the time from first to last step with a step running"
    )
    max_num_seqs: int = Field(default=0, description="requests that the engine runs at once")
    max_in_flight: int = 0
    engine_deaths: int = Field(default=0, description="of this worker's engines before this one")
    cpu_s: float = 0.0
    stopped: Stopped | None = None


class Spent(Frozen):
    """What a job has spent so far, over all runs of all its workers."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    worker_s: float = Field(default=0.0, description="time of workers, engine starts included")
    usd: float | None = Field(default=None, description="None when a worker's price is not known")
    began_at: str = Field(default="", description="start of the first worker, ISO 8601")


class BatchStatus(Frozen):
    """How far a job is; `rows_committed` can be relied on, `rows_journaled` survive a restart."""

    job_id: str
    name: str
    state: Literal["planned", "running", "stopped", "cancelled", "finished"] = Field(
        description="stopped: some rows are done and no worker has said anything lately"
    )
    finished: bool
    shards: int
    shards_committed: int
    rows: int
    rows_committed: int
    rows_journaled: int = Field(description="in the output's own journals, or this machine's")
    reduced_rows: int = Field(default=0, description="of `rows`: those that combine chunks")
    errors: dict[str, int] = Field(
        default={}, description="error class to rows: as counted at the end, else as reported"
    )
    workers_alive: tuple[str, ...] = Field(default=(), description="share and host of each")
    spent: Spent = Spent()
    rows_per_s: float | None = Field(default=None, description="of the workers alive together")
    left_s: float | None = Field(default=None, description="None when it cannot be told")
