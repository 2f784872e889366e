"""Gate: compare a candidate with its pinned baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameters import GateForm, ModelName
from flows.reports import publish_report
from flows.stage_tasks import evidence, flow_workspace, run_stage
from pipelines.errors import ConfigError
from pipelines.models_edit import set_gate
from pipelines.models_file import Baseline, GateEntry, load_models
from pipelines.records import ManifestRecord, Verdict
from pipelines.releases import DEFAULT_STAGE, read_release
from pipelines.store import tags
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace


@flow(name="gate", flow_run_name="gate {candidate}")
def gate(
    candidate: Annotated[ModelName, Field(json_schema_extra={"title": "Candidate"})],
    rule: Annotated[GateForm, Field(json_schema_extra={"title": "Gate"})],
) -> Verdict:
    """Compare a candidate with its baseline, item by item, and write the verdict.

    A verdict against the candidate is a result, not a failure of this run.

    Args:
        candidate: Name of an evaluated model.
        rule: The release line, the policy and the baseline.
    """
    with flow_workspace() as workspace:
        ensure_gate(workspace, candidate, rule)
        run_stage(workspace, f"gate@{candidate}")
        folder = Layout(workspace.root).verdict(candidate)
        verdict = evidence(workspace, folder / "verdict.json", Verdict)
        publish_report(f"verdict-{candidate}", folder / "report.md", f"Verdict on {candidate}")
        return verdict


def ensure_gate(workspace: Workspace, candidate: str, rule: GateForm) -> GateEntry:
    """Pin the candidate's baseline in models.yaml, by name and digest, unless it is pinned."""
    baseline = choose_baseline(workspace, candidate, rule)
    entry = GateEntry(release=rule.release, policy=rule.policy, baseline=baseline)

    def pin(root: Path) -> list[str]:
        set_gate(root, candidate, entry)
        return []

    if load_models(workspace.root).gates.get(candidate) != entry:
        workspace.change(f"Gate {candidate} against {baseline.name}", pin)
    return entry


def choose_baseline(workspace: Workspace, candidate: str, rule: GateForm) -> Baseline:
    """The baseline: the one named, else pinned before, else in production, else the tuning's base.

    A pin stays when production moves on: the verdict on the model that was just promoted must not
    become a comparison with itself. Promotion asks whether the pin is what production holds.
    Raises ConfigError when there is none of them.
    """
    models = load_models(workspace.root)
    if not rule.baseline:
        if candidate in models.gates:
            return models.gates[candidate].baseline
        if held := tags.assignment(workspace.root, rule.release, DEFAULT_STAGE):
            release = f"{rule.release}@{DEFAULT_STAGE}"
            record = read_release(workspace.root, held.commit, release)
            return Baseline(name=record.model, digest=record.weight_digest)
    name = rule.baseline
    if not name and candidate in models.tunings:
        name = models.tunings[candidate].base
    if not name:
        fact = f"the release line {rule.release} is empty, and {candidate} was not tuned here"
        raise ConfigError("models.yaml", fact, "Name the model to compare it with.")
    path = Layout(workspace.root).origin(name) / "manifest.json"
    manifest = evidence(workspace, path, ManifestRecord)
    return Baseline(name=name, digest=manifest.weight_digest)
