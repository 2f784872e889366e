"""`weighbridge add`: from a reference to an entry of models.yaml."""

from __future__ import annotations

from pathlib import Path

from flows.parameters import ModelForm
from pipelines.models_edit import add_model
from pipelines.models_file import DeclaredUse
from pipelines.references import parse_reference
from pipelines.settings import Settings
from pipelines.sources.dispatch import resolve
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore
from pipelines.store.workspace import open_workspace


def add_reference(settings: Settings, model: ModelForm, use: DeclaredUse) -> dict[str, str]:
    """Resolve the form's reference to bytes, add it under its name and push.

    A folder or a bucket is brought into the store for that, so that the ingest only links it.
    Raises BadReference, what resolving raises, or NameTaken; nothing is written to the registry
    then.
    """
    wanted = Wanted(
        reference=parse_reference(model.reference), include=model.include, exclude=model.exclude
    )
    resolved = str(resolve(wanted, ObjectStore(settings.home)))

    def apply(root: Path) -> list[str]:
        add_model(root, model.name, model.entry(resolved), use)
        return []

    with open_workspace(settings) as workspace:
        workspace.change(f"Add {model.name}", apply)
    return {"name": model.name, "reference": resolved}
