"""A release without the hours before it: signed and tagged weights, as promotion leaves them.

The stages that promotion rests on are heavy, and a batch job looks at none of them: it believes the
signed release record and the weights that hash to it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.canonical import record_bytes, write_bytes, write_record
from pipelines.digest import build_manifest, weight_digest
from pipelines.models_edit import add_model
from pipelines.models_file import DeclaredUse, ModelEntry
from pipelines.records import (
    Finding,
    LicenceDecision,
    ManifestRecord,
    Release,
    VerificationRecord,
)
from pipelines.settings import Settings
from pipelines.signing import sign_bytes
from pipelines.store import git, tags
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace
from pipelines.template import template_sha256

NONE = "0" * 64


def release_weights(settings: Settings, weights: Path, name: str, line: str) -> Release:
    """Put `weights` into the registry as `name` and make them `line`@production."""
    with open_workspace(settings) as workspace:
        _register(workspace, weights, name)
        folder = Layout(workspace.root).weights(name)
        files = build_manifest(folder)
        release = Release(
            release=line,
            version="v1.0.0",
            stage="production",
            model=name,
            weight_digest=weight_digest(files),
            files=files,
            verdict_sha256=NONE,
            verification_sha256=NONE,
            origin_sha256=NONE,
            template_sha256=template_sha256(folder),
            commit=git.head(workspace.root),
            supersedes="",
        )
        workspace.change("Release", lambda root: _write(settings, root, release))
        return release


def verified_weights(settings: Settings, weights: Path, name: str, passed: bool = True) -> str:
    """Put `weights` into the registry as `name` with a verification, as onboarding leaves them."""
    with open_workspace(settings) as workspace:
        _register(workspace, weights, name)
        layout = Layout(workspace.root)
        digest = weight_digest(build_manifest(layout.weights(name)))
        finding = Finding(rule="licence", severity="refusal", file="", fact="no licence", remedy="")
        record = VerificationRecord(
            name=name,
            weight_digest=digest,
            code_digest=NONE,
            policy_sha256=NONE,
            passed=passed,
            findings=() if passed else (finding,),
            formats={},
            parameters=1,
            template_sha256=template_sha256(weights),
            licence=LicenceDecision(family="MIT", spdx="MIT", use="commercial", allowed=True,
                                    source="test"),
            statement="",
        )  # fmt: skip
        write_record(layout.verification(name) / "verification.json", record)
        workspace.dvc("commit", "--force", f"verify@{name}")
        workspace.dvc("push", "--quiet", f"verify@{name}")
        workspace.publish("Verify")
        return digest


def _register(workspace: Workspace, weights: Path, name: str) -> None:
    """What a run of ingest leaves behind: outputs, dvc.lock and the remote."""
    layout = Layout(workspace.root)
    entry = ModelEntry(reference=f"file:///weights#sha256={NONE}")
    add_model(workspace.root, name, entry, DeclaredUse())
    shutil.copytree(weights, layout.weights(name))
    files = build_manifest(layout.weights(name))
    manifest = ManifestRecord(
        name=name,
        weight_digest=weight_digest(files),
        files=files,
        reference=entry.reference,
        code_digest=NONE,
    )
    write_record(layout.origin(name) / "manifest.json", manifest)
    workspace.dvc("commit", "--force", f"ingest@{name}")
    workspace.dvc("push", "--quiet", f"ingest@{name}")
    workspace.publish("Register")


def _write(settings: Settings, root: Path, release: Release) -> list[str]:
    path = Layout(root).release(release.release, release.version)
    data = record_bytes(release)
    write_bytes(path, data)
    write_bytes(path.with_name(f"{path.stem}.sig.json"), sign_bytes(settings.signing_key, data))
    git.commit_all(root, "Release")
    line = release.release
    names = (f"{line}@{release.version}", f"{line}#{release.stage}#1")
    return [tags.tag(root, name, release.model) for name in names]
