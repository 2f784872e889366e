"""`weighbridge add`: from a reference to an entry of models.yaml."""

from __future__ import annotations

from pathlib import Path

from pipelines.models_edit import add_model
from pipelines.models_file import DeclaredUse, ModelEntry
from pipelines.references import check_name, parse_reference
from pipelines.settings import Settings
from pipelines.sources.dispatch import resolve
from pipelines.store.workspace import open_workspace


def add_reference(
    settings: Settings, reference: str, name: str, convert: str, purpose: str
) -> dict[str, str]:
    """Resolve `reference` to bytes, add it under `name` and push.

    Raises BadName, BadReference, SourceNotFound, or NameTaken; nothing is written then.
    """
    check_name(name)
    resolved = resolve(parse_reference(reference), settings.downloads)
    entry = ModelEntry.model_validate({"reference": str(resolved), "convert": convert})
    use = DeclaredUse.model_validate({"purpose": purpose})

    def apply(root: Path) -> list[str]:
        add_model(root, name, entry, use)
        return []

    with open_workspace(settings) as workspace:
        workspace.change(f"Add {name}", apply)
    return {"name": name, "reference": str(resolved)}
