"""models.yaml: what dvc.yaml iterates over, read strictly.

Five maps, because DVC's `foreach` takes one map and each stage has its own instances: `models`
(weights from outside), `tunings` (weights trained here), `uses` (every set of weights, with the
declared use that its licence is judged against), `evaluations` (one per model and suite) and
`gates` (one per candidate).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipelines.canonical import Frozen
from pipelines.errors import ConfigError, UnknownName, WrongKindOfPath
from pipelines.references import check_name, parse_reference

ConfigT = TypeVar("ConfigT", bound=Frozen)
EntryT = TypeVar("EntryT")
Name = Annotated[str, AfterValidator(check_name)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DeclaredUse(Frozen):
    """What the company does with a model: the question that a licence answers.

    None means 'not declared': a licence whose answer depends on it then refuses.
    """

    purpose: Literal["commercial", "research"] = "commercial"
    monthly_users: int | None = Field(default=None, ge=0)
    revenue_usd_year: int | None = Field(default=None, ge=0)
    territories: tuple[str, ...] = ()
    redistribution: bool = False
    trains_other_models: bool = False


class Base(Frozen):
    """The weights that an adapter from outside changes, pinned by digest."""

    name: Name
    digest: Digest


class ModelEntry(Frozen):
    """Weights from outside; `include` and `exclude` are patterns over the source's file names.

    `base` is for adapters, and only for them.
    """

    reference: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    convert: Literal["as-is", "dequantise", "depickle"] = "as-is"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    base: Base | None = None

    @model_validator(mode="after")
    def _reference_is_resolved(self) -> Self:
        if not parse_reference(self.reference).resolved:
            raise ValueError(
                f"{self.reference} is not resolved to bytes (a sha256 pin or a 40-digit commit); "
                "`weighbridge add` resolves it"
            )
        return self


class TuningEntry(Frozen):
    """Weights trained here: a base, a recipe (recipes/NAME.yaml) and data (datasets/NAME)."""

    base: Name
    recipe: Name
    dataset: Name


class EvaluationEntry(Frozen):
    """One model on one suite (suites/NAME)."""

    model: Name
    suite: Name


class Baseline(Frozen):
    """What a candidate is compared with, pinned by digest."""

    name: Name
    digest: Digest


class GateEntry(Frozen):
    """One candidate's way into a release line; the map's key is the candidate's name."""

    release: Name
    policy: Name
    baseline: Baseline


class ModelsFile(Frozen):
    """The whole of models.yaml."""

    models: dict[Name, ModelEntry] = {}
    tunings: dict[Name, TuningEntry] = {}
    uses: dict[Name, DeclaredUse] = {}
    evaluations: dict[Name, EvaluationEntry] = {}
    gates: dict[Name, GateEntry] = {}

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        weights = {*self.models, *self.tunings}
        if twice := set(self.models) & set(self.tunings):
            raise ValueError(f"{sorted(twice)} stand in both models and tunings")
        asked = {
            "uses": set(self.uses),
            "evaluations": {entry.model for entry in self.evaluations.values()},
            "gates": set(self.gates) | {entry.baseline.name for entry in self.gates.values()},
            "tunings": {entry.base for entry in self.tunings.values()},
            "models": {entry.base.name for entry in self.models.values() if entry.base},
        }
        for where, names in asked.items():
            if unknown := names - weights:
                raise ValueError(f"{where} names {sorted(unknown)}, which no model or tuning is")
        if unused := weights - set(self.uses):
            raise ValueError(f"no declared use for {sorted(unused)}: add them under uses")
        return self

    def weights(self) -> list[str]:
        """Every name that has weights, from outside first."""
        return [*self.models, *self.tunings]

    def evaluations_of(self, name: str) -> list[str]:
        """Keys of the evaluations of one model."""
        return [key for key, entry in self.evaluations.items() if entry.model == name]


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice: plain YAML keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            where = node.start_mark.line + 1
            raise yaml.YAMLError(f"line {where}: the keys {twice} stand there twice")
        return mapping


def load_yaml(path: Path) -> Any:
    """Parse a YAML file; raises WrongKindOfPath when absent, ConfigError with line and column."""
    if not path.is_file():
        raise WrongKindOfPath(path, "a YAML file")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"not YAML ({error})", "Correct the syntax.") from error


def parse_config(path: Path, kind: type[ConfigT], data: Any) -> ConfigT:
    """Validate parsed YAML against a closed schema; ConfigError names the file and the key."""
    try:
        return kind.model_validate(data if data is not None else {})
    except ValidationError as error:
        raise ConfigError(path, describe(error), "Correct it; see docs/reference.md.") from error


def describe(error: ValidationError) -> str:
    """The problems of a validation, as `key: what is wrong` joined by semicolons."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        known = problem["type"] == "extra_forbidden"
        lines.append(f"{where}: " + ("unknown key" if known else problem["msg"]))
    return "; ".join(lines)


def load_models(registry: Path) -> ModelsFile:
    """Read models.yaml of a registry."""
    path = registry / "models.yaml"
    return parse_config(path, ModelsFile, load_yaml(path))


def entry(registry: Path, kind: str, entries: Mapping[str, EntryT], name: str) -> EntryT:
    """One entry of a map of models.yaml; raises UnknownName with the names that there are."""
    if name not in entries:
        raise UnknownName(registry / "models.yaml", kind, name, list(entries))
    return entries[name]
