"""Onboard: bring weights in, verify and sign them, evaluate them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.adding import resolved_entry
from flows.parameters import COMMERCIAL_USE, ModelForm, UseForm
from flows.reports import Onboarded
from flows.stage_tasks import flow_workspace, run_stage
from flows.steps import verify_and_evaluate
from pipelines.errors import ConfigError
from pipelines.models_edit import add_model
from pipelines.models_file import load_models
from pipelines.references import Reference, check_name, parse_reference
from pipelines.store.workspace import Workspace


@flow(name="onboard", flow_run_name="onboard {model.name}")
def onboard(
    model: Annotated[ModelForm, Field(json_schema_extra={"title": "Model"})],
    suites: Annotated[tuple[str, ...], Field(json_schema_extra={"title": "Suites"})] = (),
    use: Annotated[UseForm, Field(json_schema_extra={"title": "Declared use"})] = COMMERCIAL_USE,
) -> Onboarded:
    """Bring a model in, verify and sign it, and evaluate it.

    Nothing is loaded before verification has passed. An interrupted run goes on where it stopped.

    Args:
        model: What to bring in.
        suites: Evaluation suites of the registry, for instance general.
        use: What the model is for; read only when the model is new.
    """
    with flow_workspace() as workspace:
        ensure_model(workspace, model, use)
        if model.name in load_models(workspace.root).models:
            run_stage(workspace, f"ingest@{model.name}")
        return verify_and_evaluate(workspace, model.name, suites)


def ensure_model(workspace: Workspace, model: ModelForm, use: UseForm) -> None:
    """Add the model to models.yaml unless it is there; its reference is resolved to bytes once.

    Raises NameTaken when the name stands for something else, ConfigError for a new name without a
    reference, and what resolving raises.
    """
    check_name(model.name)
    models = load_models(workspace.root)
    if not model.reference:
        if model.name not in models.weights():
            fact = f"{model.name} is new and has no reference"
            raise ConfigError("models.yaml", fact, "Say where its weights come from.")
        return
    wanted = parse_reference(model.reference)
    known = models.models.get(model.name)
    if known is not None and _same_source(wanted, parse_reference(known.reference)):
        entry = model.entry(known.reference, known.base)
    else:
        entry = resolved_entry(workspace, model, wanted)

    def add(root: Path) -> list[str]:
        add_model(root, model.name, entry, use.declared())
        return []

    if known != entry or models.uses[model.name] != use.declared():
        workspace.change(f"Add {model.name}", add)


def _same_source(wanted: Reference, known: Reference) -> bool:
    """Whether a reference, pinned or not, names what a resolved one was resolved from."""
    same = (wanted.scheme, wanted.where, wanted.revision) == (
        known.scheme, known.where, known.revision,
    )  # fmt: skip
    return same and wanted.pin in ("", known.pin)
