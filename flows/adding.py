"""From a form's reference to an entry of models.yaml, with bytes and base pinned."""

from __future__ import annotations

import json
from pathlib import Path

from flows.parameters import ModelForm
from pipelines.adapters import resolve_base
from pipelines.errors import ConfigError, UnknownName
from pipelines.merge import ADAPTER_CONFIG
from pipelines.models_edit import add_model
from pipelines.models_file import Base, DeclaredUse, ModelEntry, load_models
from pipelines.records import ManifestRecord, read_record
from pipelines.references import Reference, parse_reference
from pipelines.settings import Settings
from pipelines.sources.dispatch import peek, resolve
from pipelines.sources.intake import Wanted
from pipelines.store.integrity import locked_outputs
from pipelines.store.objects import ObjectStore
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace


def add_reference(settings: Settings, model: ModelForm, use: DeclaredUse) -> dict[str, str]:
    """Resolve the form's reference to bytes, add it under its name and push.

    A folder or a bucket is brought into the store for that, so that the ingest only links it.
    Raises BadReference, what resolving raises, AdapterWithoutBase, or NameTaken; nothing is
    written to the registry then.
    """
    reference = parse_reference(model.reference)
    with open_workspace(settings) as workspace:
        entry = resolved_entry(workspace, model, reference)

        def apply(root: Path) -> list[str]:
            add_model(root, model.name, entry, use)
            return []

        workspace.change(f"Add {model.name}", apply)
    return {"name": model.name, "reference": entry.reference}


def resolved_entry(workspace: Workspace, model: ModelForm, reference: Reference) -> ModelEntry:
    """The entry that a form means, once its reference is resolved to bytes.

    An adapter's base is the model that the form names, or the one of the registry that the adapter
    means (where the reference came without a pin); its digest is that of its ingest. Raises what
    resolving raises, AdapterWithoutBase, UnknownName, and ConfigError for a base that was never
    ingested.
    """
    store = ObjectStore(workspace.settings.home)
    wanted = Wanted(
        reference=reference,
        include=model.include,
        exclude=model.exclude,
        pickled=model.convert == "depickle",
    )
    pinned = wanted.model_copy(update={"reference": resolve(wanted, store)})
    return model.entry(str(pinned.reference), _base(workspace, model, pinned, store))


def _base(
    workspace: Workspace, model: ModelForm, pinned: Wanted, store: ObjectStore
) -> Base | None:
    models = load_models(workspace.root)
    name = model.base
    if not name:
        # A pin that was given is taken at its word: the source may be out of this machine's reach.
        given = parse_reference(model.reference)
        config = None if given.pin else peek(pinned, store, ADAPTER_CONFIG)
        if config is None:
            return None
        name = resolve_base(json.loads(config), models)
    return Base(name=name, digest=_digest(workspace, name))


def _digest(workspace: Workspace, name: str) -> str:
    """The weight digest that a model's ingest or training recorded."""
    known = load_models(workspace.root).weights()
    if name not in known:
        raise UnknownName("models.yaml", "base model", name, known)
    origin = Layout(workspace.root).origin(name)
    target = origin.relative_to(workspace.root).as_posix()
    if target not in locked_outputs(workspace.root):
        fact = f"the base {name} was never ingested, so it has no digest yet"
        raise ConfigError("models.yaml", fact, f"Run `weighbridge onboard {name}` first.")
    workspace.restore(target)
    return read_record(origin / "manifest.json", ManifestRecord).weight_digest
