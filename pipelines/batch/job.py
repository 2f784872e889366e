"""The job: one YAML file, and the same model as a form."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.canonical import Frozen
from pipelines.models_file import load_yaml, parse_config

Classification = Literal["public", "internal", "confidential", "restricted"]


class Corpus(Frozen):
    """Where the documents are and what counts as one."""

    path: Path = Field(
        title="Path",
        description="A folder of .txt, .md and .html files, or one .jsonl file.",
        examples=["/data/contracts", "/data/tickets.jsonl"],
    )
    kind: Literal["folder", "jsonl"] = Field(
        default="folder",
        title="Kind",
        description="folder: each file is a document. jsonl: each line is one.",
    )
    id_column: str = Field(
        default="id", title="Id column", description="jsonl: the key that names a document."
    )
    text_column: str = Field(
        default="text", title="Text column", description="jsonl: the key that holds the text."
    )
    max_document_bytes: int = Field(
        default=5_000_000,
        ge=1,
        title="Largest document",
        description="Size in bytes above which a document becomes an error row, unread.",
    )


class Prompt(Frozen):
    """What is asked of each chunk of each document."""

    template: str = Field(
        min_length=1,
        title="Prompt",
        description=(
            "A Jinja template. {{ text }} is the text of the chunk, {{ id }} the document's id, "
            "{{ chunk }} and {{ chunks }} its number (from 0) and how many there are; with jsonl "
            "every other column goes by its own name."
        ),
        examples=["Which licence family is this?\n\n{{ text }}"],
    )
    system: str | None = Field(
        default=None,
        title="System prompt",
        description="Sent before each prompt, as it is (not a template).",
        examples=["You answer in JSON."],
    )


class Sampling(Frozen):
    """How the model writes, and how often a row may be tried."""

    max_tokens: int = Field(
        default=256, ge=1, title="Longest answer", description="In tokens of the model."
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, title="Temperature", description="0 takes the likeliest token."
    )
    top_p: float = Field(default=1.0, gt=0, le=1, title="Top p")
    seed: int = Field(
        default=0, ge=0, lt=2**31, title="Seed", description="Matters above temperature 0."
    )
    attempts: int = Field(
        default=2,
        ge=1,
        le=10,
        title="Attempts",
        description="With a schema: how often an answer that does not fit it may be asked for.",
    )
    retry_temperature: float = Field(
        default=0.7,
        ge=0,
        le=2,
        title="Temperature of further attempts",
        description="A greedy second attempt would repeat the first.",
    )


class Chunking(Frozen):
    """How a document that is longer than one prompt is divided."""

    tokens: int = Field(
        ge=16, title="Chunk length", description="In tokens of the model.", examples=[512]
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

    @model_validator(mode="after")
    def _chunks_advance(self) -> Self:
        if self.overlap_tokens >= self.tokens:
            raise ValueError("overlap_tokens must be smaller than tokens")
        return self


class EngineSettings(Frozen):
    """How the engine runs; nothing here but the context length changes what is asked."""

    max_in_flight: int = Field(
        default=512,
        ge=1,
        title="Requests in flight",
        description="More than the engine runs at once (256 on a CPU), so that it never waits.",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=32,
        title="Context length",
        description="Prompt and answer together, in tokens. Empty: the model's own.",
    )
    kv_cache_gib: int = Field(
        default=1, ge=1, title="KV cache on a CPU", description="In GiB of main memory."
    )
    cpu_threads: int = Field(
        default=1, ge=1, title="Threads on a CPU", description="For the engine's arithmetic."
    )


class Limits(Frozen):
    """When a job is refused or stopped."""

    max_error_rate: float = Field(
        default=0.1,
        ge=0,
        le=1,
        title="Highest share of error rows",
        description="A job with more is not finished; raise it and run again to accept them.",
    )


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


def load_job(path: Path) -> BatchJob:
    """Read a job from YAML; paths in it are relative to the file's own folder.

    Raises WrongKindOfPath when there is no such file and ConfigError with the keys that do not fit.
    """
    job = parse_config(path, BatchJob, load_yaml(path))
    base = path.resolve().parent
    corpus = job.corpus.model_copy(update={"path": base / job.corpus.path})
    output = job.output if is_s3(job.output) else str(base / job.output)
    return job.model_copy(update={"corpus": corpus, "output": output})


def is_s3(output: str) -> bool:
    """Whether an output location is an S3 prefix."""
    return output.startswith("s3://")
