"""How a model writes and how its engine runs: two parts of a job."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.canonical import Frozen

Task = Literal["generate", "embed", "classify"]
Backend = Literal["vllm", "transformers"]


class Sampling(Frozen):
    """How the model writes, and how often a row may be tried."""

    max_tokens: int = Field(
        default=256, ge=1, title="Longest answer", description="In tokens of the model."
    )
    min_tokens: int = Field(
        default=0, ge=0, title="Shortest answer", description="In tokens; the end is ruled out."
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, title="Temperature", description="0 takes the likeliest token."
    )
    top_p: float = Field(default=1.0, gt=0, le=1, title="Top p")
    top_k: int = Field(
        default=0, ge=0, title="Top k", description="Only the likeliest k tokens; 0 takes all."
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, title="Seed", description="Matters above temperature 0."
    )
    stop: tuple[str, ...] = Field(
        default=(),
        max_length=16,
        title="Stop",
        description="Texts that end an answer. They are not part of it.",
        examples=[["\n\n"]],
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0,
        le=2,
        title="Repetition penalty",
        description="Above 1 makes tokens of the prompt and of the answer so far less likely.",
    )
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, title="Presence penalty")
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, title="Frequency penalty")
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

    @model_validator(mode="after")
    def _answers_can_end(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens must not exceed max_tokens")
        if "" in self.stop:
            raise ValueError("stop must not hold an empty text")
        return self


class Reduce(Frozen):
    """How the answers about the chunks of one document become one answer about all of it."""

    template: str = Field(
        min_length=1,
        title="Prompt that combines",
        description=(
            "A Jinja template. {{ answers }} is the list of answers in the order of the chunks: "
            "objects under an output schema, else text. {{ id }} is the document's id, "
            "{{ chunks }} how many chunks it has; with tables every other column but the text "
            "goes by its own name."
        ),
        examples=["{% for a in answers %}- {{ a }}\n{% endfor %}\nSum these notes up."],
    )
    system: str | None = Field(
        default=None, title="System prompt", description="Empty: that of the job's prompt."
    )
    at_once: int | None = Field(
        default=None,
        ge=2,
        title="Answers at once",
        description=(
            "More answers than this are combined in rounds, so many at a time. Empty: all at once."
        ),
        examples=[8],
    )


class EngineSettings(Frozen):
    """How the engine runs; nothing here but the context length changes what is asked."""

    backend: Literal["auto", "vllm", "transformers"] = Field(
        default="auto",
        title="Engine",
        description=(
            "auto: vLLM where its registry has the model's architecture, transformers otherwise; "
            "plan, report and every row say which."
        ),
    )
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        title="Requests in flight",
        description="More than the engine runs at once, so that it never waits. Empty: twice that.",
    )
    max_num_seqs: int | None = Field(
        default=None,
        ge=1,
        title="Requests run at once",
        description="Empty: the engine's own choice (vLLM: 256 on a CPU, 256 or 1024 on a GPU).",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=32,
        title="Context length",
        description="Prompt and answer together, in tokens. Empty: the model's own.",
    )
    restarts: int = Field(
        default=20,
        ge=0,
        title="Restarts",
        description=(
            "How often a worker whose engine died is started again in one run, to find the "
            "document that kills it. 0: the run ends."
        ),
    )
    tensor_parallel: int = Field(
        default=1, ge=1, title="GPUs per engine", description="One model across several GPUs."
    )
    data_parallel: int = Field(
        default=1, ge=1, title="Engines", description="Each with its own GPUs, sharing the job."
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, title="Share of GPU memory", description="For the engine."
    )
    prefix_caching: bool = Field(
        default=True, title="Prefix cache", description="Reuse what prompts have in common."
    )
    kv_cache_gib: int = Field(
        default=1, ge=1, title="KV cache on a CPU", description="In GiB of main memory."
    )
    cpu_threads: int = Field(
        default=1, ge=1, title="Threads on a CPU", description="For the engine's arithmetic."
    )

    @model_validator(mode="after")
    def _engine_never_waits(self) -> Self:
        if self.max_in_flight and self.max_num_seqs and self.max_in_flight <= self.max_num_seqs:
            raise ValueError(
                "max_in_flight must be above max_num_seqs, or the engine waits for requests"
            )
        return self
