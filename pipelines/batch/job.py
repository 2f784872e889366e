"""The job: one YAML file, and the same model as a form."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.batch.corpus_settings import Corpus as Corpus
from pipelines.batch.corpus_settings import Kind as Kind
from pipelines.batch.settings import EngineSettings, Reduce, Sampling, Task
from pipelines.canonical import Frozen
from pipelines.models_file import load_yaml, parse_config

Classification = Literal["public", "internal", "confidential", "restricted"]


class Prompt(Frozen):
    """What is asked of each chunk of each document."""

    template: str = Field(
        default="",
        title="Prompt",
        description=(
            "A Jinja template. {{ text }} is the text of the chunk, {{ id }} the document's id, "
            "{{ chunk }} and {{ chunks }} its number (from 0) and how many there are; with tables "
            "every other column goes by its own name. Empty for chats, which are sent as they are."
        ),
        examples=["Which licence family is this?\n\n{{ text }}"],
    )
    system: str | None = Field(
        default=None,
        title="System prompt",
        description="Sent before each prompt, as it is (not a template).",
        examples=["You answer in JSON."],
    )


class Chunking(Frozen):
    """How a document that is longer than one prompt is divided."""

    tokens: int | None = Field(
        default=None,
        ge=16,
        title="Chunk length",
        description="In tokens of the model. Empty: as many as fit, for documents that do not fit.",
        examples=[512],
    )
    overlap_tokens: int = Field(
        default=0, ge=0, title="Overlap", description="Tokens that two neighbours share."
    )
    first: int | None = Field(
        default=None,
        ge=1,
        title="Only the first chunks",
        description="Leave the rest of each document out; the plan counts the documents so cut.",
    )
    reduce: Reduce | None = Field(
        default=None,
        title="Combine",
        description="Ask once more about each document of several chunks, with their answers.",
    )

    @model_validator(mode="after")
    def _chunks_advance(self) -> Self:
        if self.tokens is not None and self.overlap_tokens >= self.tokens:
            raise ValueError("overlap_tokens must be smaller than tokens")
        return self


_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


class Limits(Frozen):
    """When a job is refused or stopped."""

    max_error_rate: float = Field(
        default=0.1,
        ge=0,
        le=1,
        title="Highest share of error rows",
        description="A job with more is not finished; raise it and run again to accept them.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        title="Most tokens",
        description="Read and written, all attempts and earlier runs included.",
        examples=[50_000_000],
    )
    max_usd: float | None = Field(
        default=None,
        gt=0,
        title="Most US dollars",
        description="Time of all workers so far, times the price of an hour.",
        examples=[25.0],
    )
    usd_per_hour: float | None = Field(
        default=None,
        gt=0,
        title="Price of an hour",
        description="Of one worker, in US dollars. Empty: WEIGHBRIDGE_USD_PER_HOUR.",
        examples=[2.5],
    )
    deadline: str | None = Field(
        default=None,
        title="Deadline",
        description="An instant with its zone, or a time counted from the job's first run: 8h.",
        examples=["2026-12-01T06:00:00+01:00", "90min", "8h", "2d"],
    )

    @field_validator("deadline", mode="before")
    @classmethod
    def _deadline_is_told(cls, value: object) -> object:
        if isinstance(value, datetime):  # YAML reads an instant without quotes as one
            value = value.isoformat()
        if isinstance(value, str):
            deadline_after(value, datetime.now(UTC))
        return value


class BatchJob(Frozen):
    """A batch request over a corpus."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,99}$",
        title="Name",
        description="How the job is called in reports.",
        examples=["licence-triage 2026-11"],
    )
    model: str = Field(
        min_length=1,
        title="Model",
        description="A release and its stage.",
        examples=["licence-triage@production"],
    )
    task: Task = Field(
        default="generate",
        title="Task",
        description=(
            "generate: the model writes an answer. embed: a vector of each prompt. classify: the "
            "labels of a classification head, with scores."
        ),
    )
    adapter: str | None = Field(
        default=None,
        title="Adapter",
        description="A release that was tuned from `model`: its LoRA runs on the model's weights.",
        examples=["licence-triage@production"],
    )
    corpus: Corpus = Field(title="Corpus")
    classification: Classification = Field(
        title="Classification",
        description="Of the documents. The only destination is the engine on this machine.",
    )
    prompt: Prompt = Field(title="Prompt")
    output_schema: dict[str, Any] | None = Field(
        default=None,
        title="Output schema",
        description="A JSON schema that every answer must fit. Empty: plain text.",
        examples=[
            {
                "type": "object",
                "properties": {"label": {"enum": ["permissive", "copyleft"]}},
                "required": ["label"],
                "additionalProperties": False,
            }
        ],
    )
    sampling: Sampling = Field(default=Sampling(), title="Sampling")
    chunking: Chunking | None = Field(
        default=None, title="Chunking", description="Empty: each document is one prompt."
    )
    over_long: Literal["refuse", "truncate", "chunk"] = Field(
        default="refuse",
        title="Over-long documents",
        description=(
            "What becomes of a document whose prompt does not fit the context. refuse: an error "
            "row. truncate: its beginning is asked about. chunk: it is divided."
        ),
    )
    duplicates: Literal["answer_each", "answer_once"] = Field(
        default="answer_each",
        title="Duplicates",
        description="answer_once: documents of equal content get the first one's answer.",
    )
    tokens: Literal["count", "estimate"] = Field(
        default="count",
        title="Tokens in the plan",
        description=(
            "count: every prompt, by the model's tokenizer. estimate: a sample and whatever might "
            "not fit; faster, for large corpora of small documents."
        ),
    )
    engine: EngineSettings = Field(default=EngineSettings(), title="Engine")
    shard_rows: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        title="Rows per shard",
        description="What is committed at once. Fixed when the job is first planned.",
    )
    limits: Limits = Field(default=Limits(), title="Limits")
    output: str = Field(
        min_length=1,
        title="Output",
        description="A folder, or s3://bucket/prefix. Empty, or holding this same job.",
        examples=["/data/out/licence-triage", "s3://results/licence-triage"],
    )

    @property
    def reduce(self) -> Reduce | None:
        """How answers about chunks are combined, if they are."""
        return self.chunking.reduce if self.chunking else None

    @property
    def answer_tokens(self) -> int:
        """Tokens of the context that the answer may need."""
        return self.sampling.max_tokens if self.task == "generate" else 0

    @model_validator(mode="after")
    def _prompt_fits_the_corpus(self) -> Self:
        if self.corpus.is_chat:
            if self.prompt.template:
                raise ValueError("prompt.template and chats: chats are sent as they are")
            if self.chunking is not None or self.over_long != "refuse":
                raise ValueError("chats cannot be divided or cut: leave chunking and over_long out")
        elif not self.prompt.template.strip():
            raise ValueError("prompt.template is empty")
        if self.chunking and self.chunking.tokens is None and self.over_long != "chunk":
            raise ValueError("chunking without tokens needs over_long: chunk")
        return self

    @model_validator(mode="after")
    def _schema_is_for_text(self) -> Self:
        if self.task != "generate" and self.output_schema is not None:
            raise ValueError(f"output_schema is for answers in text, and task {self.task} has none")
        if self.task != "generate" and self.reduce is not None:
            raise ValueError(f"chunking.reduce combines text, and task {self.task} gives none")
        return self


def deadline_after(deadline: str, began: datetime) -> datetime:
    """The instant that a deadline means for a job that began then; ValueError when it is none."""
    if found := _DURATION.fullmatch(deadline):
        return began + timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    try:
        instant = datetime.fromisoformat(deadline)
    except ValueError as error:
        raise ValueError("neither an instant nor a duration such as 90min, 8h or 2d") from error
    if instant.tzinfo is None:
        raise ValueError("an instant without a zone: write 2026-12-01T06:00:00+01:00, or end in Z")
    return instant


def load_job(path: Path) -> BatchJob:
    """Read a job from YAML; paths in it are relative to the file's own folder.

    Raises WrongKindOfPath when there is no such file and ConfigError with the keys that do not fit.
    """
    job = parse_config(path, BatchJob, load_yaml(path))
    base = path.resolve().parent
    given = job.corpus.path
    corpus = job.corpus.model_copy(update={"path": given if is_s3(given) else str(base / given)})
    output = job.output if is_s3(job.output) else str(base / job.output)
    return job.model_copy(update={"corpus": corpus, "output": output})


def is_s3(output: str) -> bool:
    """Whether a location is an S3 prefix."""
    return output.startswith("s3://")
