"""A recipe: how an adapter is trained, and what its data must satisfy (recipes/NAME.yaml).

Everything that decides the bytes of the adapter stands here, the number of threads included:
floating-point sums depend on how the work is cut. The defaults suit a small model on a CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.canonical import Frozen
from pipelines.models_file import load_yaml, parse_config


class LoraSettings(Frozen):
    """LoRA (Hu et al. 2021, arXiv:2106.09685): W' = W + alpha / r · B·A on the target modules."""

    r: int = Field(default=8, ge=1, le=1024, description="Rank of the update")
    alpha: float = Field(default=16.0, gt=0, description="Scale; the update is alpha / r · B·A")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "v_proj"), min_length=1, description="Last part of the modules' names"
    )
    first_layer: int = Field(
        default=0, ge=0, description="Layers below this one stay as they are and cost no backward"
    )

    @model_validator(mode="after")
    def _modules_are_distinct(self) -> Self:
        if len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules names a module twice")
        return self


class DatasetRules(Frozen):
    """What training data must satisfy before a step is taken; every limit counts rows."""

    min_rows: int = Field(default=100, ge=1)
    max_rows: int = Field(default=1_000_000, ge=1)
    allowed_licences: tuple[str, ...] = Field(
        min_length=1, description="SPDX or LicenseRef ids that a row may carry; case is ignored"
    )
    max_tokens: int | None = Field(
        default=None, ge=8, description="Longest row in tokens; by default the recipe's max_length"
    )
    max_rows_too_long: int = Field(
        default=0, ge=0, description="Rows over max_tokens that are tolerated (and cut)"
    )
    max_rows_without_loss: int = Field(
        default=0, ge=0, description="Rows tolerated whose answer falls outside max_length"
    )
    min_characters: int = Field(default=1, ge=1, description="Shortest message content")
    max_characters: int = Field(default=200_000, ge=1, description="Longest row, all messages")
    unique_prompts: bool = Field(
        default=True, description="Refuse two answers to one prompt: one of them is mostly wrong"
    )

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> Self:
        if self.max_rows < self.min_rows or self.max_characters < self.min_characters:
            raise ValueError("a maximum is below its minimum")
        return self


class ParityRule(Frozen):
    """How far the merged weights may be from base + adapter on the same tokens."""

    rows: int = Field(default=4, ge=1, le=64, description="Training rows that are compared")
    max_logprob_difference: float = Field(
        default=0.25, gt=0, description="Largest difference of any token's log-probability, in nats"
    )


class Recipe(Frozen):
    """One training run. A step is `batch_size * gradient_accumulation` rows and one update."""

    lora: LoraSettings = LoraSettings()
    checks: DatasetRules
    parity: ParityRule = ParityRule()
    steps: int = Field(ge=1)
    batch_size: int = Field(default=8, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = Field(
        default=False, description="Less memory for about a fifth more time"
    )
    learning_rate: float = Field(gt=0, lt=1)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(ge=16, description="Tokens of a row; what is longer is cut at the end")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of the base in training; the adapter is float32 always"
    )
    seed: int = Field(default=0, ge=0, lt=2**32)
    threads: int = Field(default=2, ge=1, description="CPU threads; part of the result's identity")
    save_steps: int = Field(default=10, ge=1, description="Steps between checkpoints")
    training_template: str | None = Field(
        default=None,
        description="A chat template with generation markers, for a model whose own has none and "
        "is not of a known form; it must render exactly as the model's own",
    )

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError("warmup_steps is greater than steps")
        return self

    @property
    def max_tokens(self) -> int:
        """Longest row that the data checks admit, in tokens."""
        return self.checks.max_tokens or self.max_length


def load_recipe(path: Path) -> Recipe:
    """Read recipes/NAME.yaml; raises WrongKindOfPath when absent and ConfigError when wrong."""
    return parse_config(path, Recipe, load_yaml(path))
