"""Finetune: train a candidate from a base, a recipe and data, then verify and evaluate it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.gate import gate
from flows.parameters import COMMERCIAL_USE, GateForm, ModelName, TuningForm, UseForm
from flows.reports import Onboarded
from flows.stage_tasks import flow_workspace, run_stage
from flows.steps import verify_and_evaluate
from pipelines.models_edit import add_tuning
from pipelines.models_file import TuningEntry, load_models
from pipelines.store.workspace import Workspace


@flow(name="finetune", flow_run_name="finetune {tuning.name}")
def finetune(
    base: Annotated[ModelName, Field(json_schema_extra={"title": "Base model"})],
    tuning: Annotated[TuningForm, Field(json_schema_extra={"title": "Tuning"})],
    suites: Annotated[tuple[str, ...], Field(json_schema_extra={"title": "Suites"})] = (),
    use: Annotated[UseForm, Field(json_schema_extra={"title": "Declared use"})] = COMMERCIAL_USE,
    rule: Annotated[GateForm | None, Field(json_schema_extra={"title": "Gate"})] = None,
) -> Onboarded:
    """Train a model, verify it, sign it, evaluate it and, if asked, gate it.

    The data are checked before the first step. The gate's verdict is a report of this run; a
    refusal does not fail it.

    Args:
        base: Name of the model to tune; it must be verified.
        tuning: What to train, with which recipe, on which data.
        suites: Evaluation suites of the registry, for instance general.
        use: What the tuned model is for; the licence of the base is judged against it.
        rule: Leave as None to train without a gate.
    """
    with flow_workspace() as workspace:
        ensure_tuning(workspace, base, tuning, use)
        run_stage(workspace, f"finetune@{tuning.name}")
        tuned = verify_and_evaluate(workspace, tuning.name, suites)
        if rule is not None:
            gate(tuning.name, rule)
        return tuned


def ensure_tuning(workspace: Workspace, base: str, tuning: TuningForm, use: UseForm) -> None:
    """Add the tuning to models.yaml unless it is there; raises what `add_tuning` raises."""
    entry = TuningEntry(base=base, recipe=tuning.recipe, dataset=tuning.dataset)

    def add(root: Path) -> list[str]:
        add_tuning(root, tuning.name, entry, use.declared())
        return []

    models = load_models(workspace.root)
    known = models.tunings.get(tuning.name)
    if known != entry or models.uses[tuning.name] != use.declared():
        workspace.change(f"Add {tuning.name}", add)
