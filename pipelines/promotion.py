"""Promotion: from a passing verdict to a signed release, or a refusal that says why.

Promotion is no DVC stage. It works in a fresh clone with an empty cache, so that what it judges is
what the registry and the remote hold, and it takes nothing on trust from this machine.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

from ruamel.yaml import YAML

from pipelines.approvals import valid_approvers
from pipelines.batch.shadow import RECORD, ShadowRecord, shortfalls
from pipelines.canonical import record_bytes, sha256_file, write_bytes
from pipelines.digest import FileEntry, check_digest
from pipelines.errors import (
    ApprovalsMissing,
    BaselineMoved,
    CommandFailed,
    DigestMismatch,
    EvidenceTooOld,
    ShadowInsufficient,
    SignatureRefused,
    UnknownName,
    VerdictForOtherDigest,
    VerdictMissing,
    VerdictNotPassing,
    VerdictStale,
)
from pipelines.models_file import GateEntry, load_models
from pipelines.records import (
    ManifestRecord,
    Release,
    RunInfo,
    Verdict,
    VerificationRecord,
    read_record,
)
from pipelines.releases import read_release
from pipelines.settings import Settings
from pipelines.signing import check_manifest_signature, sign_bytes
from pipelines.store import git, tags
from pipelines.store.integrity import locked_outputs
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace
from pipelines.verification.waivers import check_expiry, today


def promote(settings: Settings, name: str, stage: str = "production") -> Release:
    """Promote the candidate `name` into `stage` of its gate's release line.

    Raises VerdictMissing, VerdictStale, VerdictNotPassing, VerdictForOtherDigest, DigestMismatch,
    BaselineMoved, EvidenceTooOld, WaiverExpired, ApprovalsMissing or SignatureRefused; then nothing
    was written.
    Promoting what already holds returns the release that holds.
    """
    with open_workspace(settings, shared_cache=False) as workspace:
        gate = _gate_entry(workspace.root, name)
        held = _held_release(workspace.root, gate.release, stage)
        verdict = _current_verdict(workspace, name)
        files = _unchanged_weights(workspace, name, verdict)
        if held is not None and held.weight_digest == verdict.weight_digest:
            return held
        _check_baseline(name, verdict, held)
        _check_shadow(workspace.root, verdict, held)
        _check_age(workspace.root, verdict)
        _check_waivers(workspace.root, name)
        approvers = _check_approvals(workspace.root, verdict)
        return _release(workspace, gate, verdict, files, stage, held, approvers)


def _gate_entry(root: Path, name: str) -> GateEntry:
    models = load_models(root)
    if name not in models.weights():
        raise UnknownName(root / "models.yaml", "model or tuning", name, models.weights())
    if name not in models.gates:
        raise VerdictMissing(name)
    return models.gates[name]


def _current_verdict(workspace: Workspace, name: str) -> Verdict:
    """The verdict, once DVC has compared everything that it rests on with what is there."""
    root = workspace.root
    if f"evidence/{name}/verdict" not in locked_outputs(root):
        raise VerdictMissing(name)
    weights = Layout(root).weights(name)
    try:
        workspace.dvc("pull", "--with-deps", f"gate@{name}")
    except CommandFailed as error:
        changed = workspace.dvc.changes([f"gate@{name}"], with_deps=True)
        if any("models/" in what for what in changed.values()):
            expected, found = "the bytes in dvc.lock", "other bytes in the remote"
            raise DigestMismatch(weights, expected, found) from error
        raise
    if changed := workspace.dvc.changes([f"gate@{name}"], with_deps=True):
        raise VerdictStale(name, [f"{stage} ({what})" for stage, what in changed.items()])
    verdict = read_record(Layout(root).verdict(name) / "verdict.json", Verdict)
    if verdict.outcome != "pass":
        raise VerdictNotPassing(name, verdict.outcome, verdict.reasons)
    return verdict


def _unchanged_weights(workspace: Workspace, name: str, verdict: Verdict) -> tuple[FileEntry, ...]:
    layout = Layout(workspace.root)
    manifest = read_record(layout.origin(name) / "manifest.json", ManifestRecord)
    files = check_digest(layout.weights(name), manifest.weight_digest)
    if verdict.weight_digest != manifest.weight_digest:
        raise VerdictForOtherDigest(name, verdict.weight_digest, manifest.weight_digest)
    bundle = layout.manifest_signature(name)
    check_manifest_signature(
        workspace.root / "policy" / "signing.pub", layout.weights(name), bundle
    )
    return files


def _held_release(root: Path, line: str, stage: str) -> Release | None:
    held = tags.assignment(root, line, stage)
    if held is None:
        return None
    return read_release(root, held.commit, f"{line}@{stage}")


def _check_baseline(name: str, verdict: Verdict, held: Release | None) -> None:
    """A first release may rest on any pinned baseline; later ones only on what holds now."""
    if held is not None and held.weight_digest != verdict.baseline_digest:
        raise BaselineMoved(
            name,
            f"{verdict.baseline} ({verdict.baseline_digest})",
            f"{held.model} ({held.weight_digest})",
        )


def _check_age(root: Path, verdict: Verdict) -> None:
    limit = verdict.requirements.max_evidence_age_days
    if limit is None:
        return
    now = datetime.now(UTC)
    measured = verdict.requirements.cost_measured_on
    if measured is not None and (age := (now.date() - measured).days) > limit:
        fact = f"its cost was measured {age} days ago, the policy admits {limit:g}"
        raise EvidenceTooOld(verdict.name, fact)
    folders = {str(Path(path).parent) for path in verdict.evidence}
    if verdict.requirements.shadow is not None and _shadow_record(root, verdict).is_file():
        folders.add(f"evidence/{verdict.name}/shadow")
    for folder in sorted(folders):
        run = root / f"{folder}.run.json"
        if not run.is_file():
            raise EvidenceTooOld(verdict.name, f"{folder} has no run.json, which says its age")
        finished = datetime.fromisoformat(read_record(run, RunInfo).finished_at)
        days = (now - finished).total_seconds() / 86_400
        if days > limit:
            raise EvidenceTooOld(
                verdict.name, f"{folder} is {days:.1f} days old, the policy admits {limit:g}"
            )


def _check_shadow(root: Path, verdict: Verdict, held: Release | None) -> None:
    """A first release has no production to be compared with."""
    asked = verdict.requirements.shadow
    if asked is None or held is None:
        return
    path = _shadow_record(root, verdict)
    if not path.is_file():
        raise ShadowInsufficient(verdict.name, ["the policy asks for a shadow run; there is none"])
    record = read_record(path, ShadowRecord)
    facts = shortfalls(record, asked)
    if record.weight_digest != verdict.weight_digest:
        facts.append(f"the shadow run is about weights {record.weight_digest}")
    if record.production.weight_digest != held.weight_digest:
        facts.append(
            f"it compares with {record.production.weight_digest}, in {held.stage} is "
            f"{held.weight_digest}"
        )
    if facts:
        raise ShadowInsufficient(verdict.name, facts)


def _shadow_record(root: Path, verdict: Verdict) -> Path:
    return Layout(root).shadow(verdict.name) / RECORD


def _check_waivers(root: Path, name: str) -> None:
    """The verification may be older than the last day of a waiver that it rests on."""
    path = Layout(root).verification(name) / "verification.json"
    check_expiry(read_record(path, VerificationRecord), today())


def _check_approvals(root: Path, verdict: Verdict) -> tuple[str, ...]:
    required = verdict.requirements.approvals
    if not required:
        return ()
    approvers = valid_approvers(root, verdict.name, verdict.weight_digest)
    if len(approvers) < required:
        raise ApprovalsMissing(verdict.name, required, approvers)
    return approvers


def _release(
    workspace: Workspace,
    gate: GateEntry,
    verdict: Verdict,
    files: tuple[FileEntry, ...],
    stage: str,
    held: Release | None,
    approvers: tuple[str, ...],
) -> Release:
    key = workspace.settings.signing_key
    if not key.is_file():
        raise SignatureRefused(key, "the registry's signing key is not on this machine")
    layout = Layout(workspace.root)
    name = verdict.name
    verification_path = layout.verification(name) / "verification.json"
    verification = read_record(verification_path, VerificationRecord)
    evidence_commit = git.head(workspace.root)
    made: list[Release] = []

    def apply(root: Path) -> list[str]:
        release = Release(
            release=gate.release,
            version=tags.next_version(root, gate.release),
            stage=stage,
            model=name,
            weight_digest=verdict.weight_digest,
            files=files,
            verdict_sha256=sha256_file(layout.verdict(name) / "verdict.json"),
            verification_sha256=sha256_file(verification_path),
            origin_sha256=sha256_file(layout.origin(name) / "manifest.json"),
            template_sha256=verification.template_sha256,
            commit=evidence_commit,
            supersedes=held.weight_digest if held else "",
            approvers=approvers,
        )
        path = layout.release(gate.release, release.version)
        data = record_bytes(release)
        write_bytes(path, data)
        write_bytes(path.with_name(f"{path.stem}.sig.json"), sign_bytes(key, data))
        _declare_artifact(root, gate.release, name)
        git.commit_all(root, f"Release {gate.release} {release.version} to {stage}")
        version_ref = tags.tag(root, f"{gate.release}@{release.version}", f"{name}")
        count = tags.next_count(root, gate.release)
        stage_ref = tags.tag(root, f"{gate.release}#{stage}#{count}", f"{name}")
        made.append(release)
        return [version_ref, stage_ref]

    workspace.change(f"Release {gate.release}", apply)
    return made[-1]


def _declare_artifact(root: Path, line: str, name: str) -> None:
    """Say in dvc.yaml which folder the release line names now; GTO and DVC read it there."""
    yaml = YAML()  # keeps comments and order
    path = root / "dvc.yaml"
    content = yaml.load(path)
    content.setdefault("artifacts", {})[line] = {"path": f"models/{name}", "type": "model"}
    text = io.BytesIO()
    yaml.dump(content, text)
    write_bytes(path, text.getvalue())
