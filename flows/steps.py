"""Sequences of stages that several flows share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.reports import Onboarded, publish_report, publish_table, score_rows
from flows.stage_tasks import evidence, run_stage
from pipelines.errors import NotVerified, SignatureRefused
from pipelines.models_edit import add_evaluations
from pipelines.models_file import load_models
from pipelines.records import EvaluationRecord, ManifestRecord, VerificationRecord
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace


def verify_and_evaluate(workspace: Workspace, name: str, suites: Sequence[str]) -> Onboarded:
    """Verify weights that are there, sign their manifest, and evaluate them on `suites`.

    Raises NotVerified with the findings when verification refuses; then nothing is signed and
    nothing evaluated. Adds missing evaluations to models.yaml.
    """
    layout = Layout(workspace.root)
    run_stage(workspace, f"verify@{name}")
    report = layout.verification(name) / "report.md"
    record = evidence(workspace, layout.verification(name) / "verification.json",
                      VerificationRecord)  # fmt: skip
    publish_report(f"verification-{name}", report, f"What verify found in {name}")
    if not record.passed:
        refusals = [f for f in record.findings if f.severity == "refusal"]
        raise NotVerified(name, [f"{f.rule}: {f.fact}. {f.remedy}" for f in refusals])
    signed = sign_manifest(workspace, name)
    keys = _evaluations(workspace, name, suites)
    evaluations = tuple(evaluate(workspace, key) for key in keys)
    if evaluations:
        publish_table(f"scores-{name}", score_rows(evaluations), f"Scores of {name}")
    manifest = evidence(workspace, layout.origin(name) / "manifest.json", ManifestRecord)
    return Onboarded(
        name=name, weight_digest=manifest.weight_digest, signed=signed, evaluations=evaluations
    )


def evaluate(workspace: Workspace, key: str) -> EvaluationRecord:
    """Bring one evaluation of models.yaml up to date and return its record."""
    run_stage(workspace, f"evaluate@{key}")
    entry = load_models(workspace.root).evaluations[key]
    folder = Layout(workspace.root).evaluation(entry.model, entry.suite)
    return evidence(workspace, folder / "evaluation.json", EvaluationRecord)


@task(name="sign", task_run_name="sign {name}", cache_policy=NO_CACHE)
def sign_manifest(workspace: Workspace, name: str) -> bool:
    """Sign the weights' manifest and publish the signature; True when a signature holds.

    A machine without the registry's key signs nothing; promotion will refuse then.
    """
    from pipelines import signing

    layout, log = Layout(workspace.root), get_run_logger()
    weights, bundle = layout.weights(name), layout.manifest_signature(name)
    public = workspace.root / "policy" / "signing.pub"
    if not weights.is_dir():
        workspace.restore(weights.relative_to(workspace.root).as_posix())
    try:
        signing.check_manifest_signature(public, weights, bundle)
        return True
    except SignatureRefused as refusal:
        if bundle.is_file():
            log.warning("signing anew: %s", refusal)
    key = workspace.settings.signing_key
    if not key.is_file():
        log.warning("%s is not signed: the key %s is not on this machine", name, key)
        return False
    signing.sign_manifest(key, weights, bundle)
    workspace.publish(f"Sign {name}")
    return True


def _evaluations(workspace: Workspace, name: str, suites: Sequence[str]) -> list[str]:
    """Keys of the evaluations of `name`, after adding those that `suites` asks for."""
    there = load_models(workspace.root)
    keys = there.evaluations_of(name)
    missing = set(suites) - {there.evaluations[key].suite for key in keys}
    if not missing:
        return keys

    def add(root: Path) -> list[str]:
        add_evaluations(root, name, suites)
        return []

    workspace.change(f"Evaluate {name} on {', '.join(sorted(missing))}", add)
    return load_models(workspace.root).evaluations_of(name)
