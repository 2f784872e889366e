"""Edits of models.yaml that keep its comments and its order.

Every function takes the registry's root, writes models.yaml in one step and says whether it changed
anything. Each may be repeated: an entry that is there already with the same content is left alone,
one with other content is refused. What is written is read back strictly before it takes its place.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from pipelines.canonical import Frozen, write_bytes
from pipelines.errors import ConfigError, NameTaken, UnknownName, WrongKindOfPath
from pipelines.models_file import (
    DeclaredUse,
    EvaluationEntry,
    GateEntry,
    ModelEntry,
    ModelsFile,
    TuningEntry,
    load_models,
    parse_config,
)
from pipelines.references import check_name
from pipelines.store.integrity import locked_stages

_WIDTH = 10_000  # never fold a line: a folded reference is hard to search for


def add_model(root: Path, name: str, entry: ModelEntry, use: DeclaredUse) -> bool:
    """Add weights from outside; raises BadName, or NameTaken when the name means something else.

    A name stays with its weights once they were ingested. Until then, as after a refusal at the
    door, the entry may be replaced.
    """
    free = f"ingest@{name}" not in locked_stages(root)
    with _editing(root) as models:
        _refuse_other_kind(root, models, name, "tunings", "a tuning")
        _add(root, models, "models", name, entry, replace=free)
        _add(root, models, "uses", name, use, replace=free)
    return models.changed


def add_tuning(root: Path, name: str, entry: TuningEntry, use: DeclaredUse) -> bool:
    """Add weights to be trained here.

    Raises UnknownName when base, recipe or data set is not in the registry, BadName, or NameTaken.
    """
    _require(root, "recipe", entry.recipe, root / "recipes", ".yaml")
    _require(root, "data set", entry.dataset, root / "datasets")
    known = load_models(root).weights()
    if entry.base not in known:
        raise UnknownName(root / "models.yaml", "model or tuning", entry.base, known)
    with _editing(root) as models:
        _refuse_other_kind(root, models, name, "models", "a model from outside")
        _add(root, models, "tunings", name, entry)
        _add(root, models, "uses", name, use)
    return models.changed


def add_evaluations(root: Path, model: str, suites: Sequence[str]) -> list[str]:
    """Have `model` evaluated on `suites`; returns the keys ('MODEL-SUITE') of all its evaluations.

    Raises UnknownName for a suite that is not in the registry or a model not in models.yaml.
    """
    for suite in suites:
        _require(root, "suite", suite, root / "suites")
    there = load_models(root)
    if model not in there.weights():
        raise UnknownName(root / "models.yaml", "model or tuning", model, there.weights())
    covered = {there.evaluations[key].suite for key in there.evaluations_of(model)}
    with _editing(root) as models:
        for suite in dict.fromkeys(suites):
            if suite not in covered:
                entry = EvaluationEntry(model=model, suite=suite)
                _add(root, models, "evaluations", f"{model}-{suite}", entry)
    return load_models(root).evaluations_of(model)


def set_gate(root: Path, name: str, entry: GateEntry) -> bool:
    """Pin what `name` is compared with; an entry that is there is replaced, as pins move.

    Raises UnknownName when candidate, baseline or policy is not in the registry.
    """
    _require(root, "gate policy", entry.policy, root / "policy" / "gates", ".yaml")
    known = load_models(root).weights()
    for model in (name, entry.baseline.name):
        if model not in known:
            raise UnknownName(root / "models.yaml", "model or tuning", model, known)
    with _editing(root) as models:
        if models.entry("gates", name) != _plain(entry):
            models.put("gates", name, _plain(entry))
    return models.changed


class _Models:
    """models.yaml as ruamel holds it: values together with their comments."""

    def __init__(self, content: CommentedMap) -> None:
        self.content = content
        self.changed = False

    def entry(self, section: str, name: str) -> Any:
        """An entry as plain values, or None."""
        found = (self.content.get(section) or {}).get(name)
        return None if found is None else _to_plain(found)

    def put(self, section: str, name: str, value: dict[str, Any]) -> None:
        """Write an entry; a section that is absent or `{}` becomes one entry a line."""
        if not isinstance(self.content.get(section), CommentedMap):
            self.content[section] = CommentedMap()
        entries = self.content[section]
        entries.fa.set_block_style()
        entries[name] = value
        self.changed = True


@contextmanager
def _editing(root: Path) -> Iterator[_Models]:
    path = root / "models.yaml"
    load_models(root)  # an edit starts from a valid file, and its problems are told as such
    yaml = _yaml()
    try:
        content = yaml.load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ConfigError(path, f"not YAML ({error})", "Correct the syntax.") from error
    models = _Models(CommentedMap() if content is None else content)
    yield models
    if models.changed:
        parse_config(path, ModelsFile, _to_plain(models.content))
        text = io.StringIO()
        yaml.dump(models.content, text)
        write_bytes(path, text.getvalue().encode())


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width = _WIDTH
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _add(
    root: Path, models: _Models, section: str, name: str, entry: Frozen, *, replace: bool = False
) -> None:
    check_name(name)
    there = models.entry(section, name)
    same = there is not None and type(entry).model_validate(there) == entry
    if there is None or (replace and not same):
        models.put(section, name, _plain(entry))
    elif not same:
        kind = section.removesuffix("s")
        listed = ", ".join(f"{key}: {value}" for key, value in there.items())
        raise NameTaken(root / "models.yaml", kind, name, listed or "default values")


def _refuse_other_kind(root: Path, models: _Models, name: str, section: str, what: str) -> None:
    if models.entry(section, name) is not None:
        raise NameTaken(root / "models.yaml", "name", name, f"{what} behind it")


def _require(root: Path, kind: str, name: str, folder: Path, suffix: str = "") -> None:
    """Refuse a name that the registry holds no file or folder for."""
    check_name(name)
    if (folder / f"{name}{suffix}").exists():
        return
    if not folder.is_dir():
        raise WrongKindOfPath(folder, f"the folder of every {kind}")
    wanted = [path for path in folder.iterdir() if path.suffix == suffix]
    raise UnknownName(folder, kind, name, [path.name.removesuffix(suffix) for path in wanted])


def _plain(entry: Frozen) -> dict[str, Any]:
    """What is written: everything that is stated, nothing that is only a default of 'unknown'."""
    values = entry.model_dump(mode="json", exclude_none=True)
    return {key: value for key, value in values.items() if value != []}


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_to_plain(inner) for inner in value]
    return value
