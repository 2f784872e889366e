"""Candidates: weights that are verified and in no release yet, as a shadow run needs them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipelines.digest import check_digest
from pipelines.errors import NotVerified, UnknownName
from pipelines.models_file import load_models
from pipelines.records import ManifestRecord, VerificationRecord, read_record
from pipelines.store.integrity import check_outputs, locked_outputs
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace
from pipelines.verification.waivers import expired, today


class Candidate(NamedTuple):
    """A model of the registry whose bytes were re-hashed and whose verification passes."""

    name: str
    weights: Path
    weight_digest: str
    template_sha256: str


def candidate(workspace: Workspace, name: str) -> Candidate:
    """Bring a model's weights and evidence into a clone and check both.

    Raises UnknownName, NotVerified (no verification, a refusal in it, or a waiver that has ended)
    and DigestMismatch.
    """
    root = workspace.root
    models = load_models(root)
    if name not in models.weights():
        raise UnknownName(root / "models.yaml", "model or tuning", name, models.weights())
    outputs = [f"evidence/{name}/origin", f"evidence/{name}/verification", f"models/{name}"]
    if missing := sorted(set(outputs) - set(locked_outputs(root))):
        raise NotVerified(name, [f"the registry holds no {path}" for path in missing])
    workspace.restore(*outputs)
    check_outputs(root, f"evidence/{name}")
    layout = Layout(root)
    manifest = read_record(layout.origin(name) / "manifest.json", ManifestRecord)
    path = layout.verification(name) / "verification.json"
    verification = read_record(path, VerificationRecord)
    if not verification.passed or verification.weight_digest != manifest.weight_digest:
        facts = [f.fact for f in verification.findings if f.severity == "refusal"]
        raise NotVerified(name, facts or ["its verification is about other weights"])
    if ended := expired(verification, today()):
        raise NotVerified(name, [f"a waiver has ended: {line}" for line in ended])
    check_digest(layout.weights(name), manifest.weight_digest)
    return Candidate(
        name, layout.weights(name), manifest.weight_digest, verification.template_sha256
    )
