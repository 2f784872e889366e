"""Releases: find the one that holds, believe its signature, fetch and audit its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pipelines.canonical import Frozen, sha256_file
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import (
    BadReference,
    CommandFailed,
    DigestMismatch,
    SignatureRefused,
    UnknownName,
)
from pipelines.records import Release, VerificationRecord, parse_record, read_record
from pipelines.settings import Settings
from pipelines.signing import check_manifest_signature, verify_bytes
from pipelines.store import git, tags
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace
from pipelines.verification.waivers import expired, today

DEFAULT_STAGE = "production"


class ReleaseOnDisk(Frozen):
    """A release and the folder that holds its weights, re-hashed."""

    release: Release
    weights: Path


class AuditCheck(Frozen):
    """One thing that an audit proved or could not."""

    check: str
    passed: bool
    fact: str


class Audit(Frozen):
    """Everything that an audit proved about one release."""

    release: Release
    checks: tuple[AuditCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return all(check.passed for check in self.checks)


def parse_release_name(text: str) -> tuple[str, str]:
    """Split `line@stage`; raises BadReference."""
    line, separator, stage = text.partition("@")
    if not (line and separator and stage):
        raise BadReference(text, "a release is named line@stage, e.g. licence-triage@production")
    return line, stage


def release_commit(tree: Path, name: str) -> str:
    """The commit of the release that holds; raises UnknownName listing those that there are."""
    line, stage = parse_release_name(name)
    held = tags.assignment(tree, line, stage)
    if held is None:
        known = [f"{known_line}@{known_stage}" for known_line, known_stage in tags.stages_of(tree)]
        raise UnknownName("the registry", "release", name, known)
    return held.commit


def read_release(tree: Path, commit: str, name: str) -> Release:
    """Read the release record that `commit` holds for `line@stage` and check its signature.

    The newest version of the line with that stage is the one that the stage tag means. Record,
    signature and public key are all read from the commit itself, so no work tree is touched.
    """
    line, stage = parse_release_name(name)
    folder = f"releases/{line}"
    names = git.git(tree, "ls-tree", "--name-only", commit, f"{folder}/").split()
    records = [path for path in names if not path.endswith(".sig.json")]
    for path in sorted(records, key=_version_key, reverse=True):
        data = git.show(tree, commit, path)
        release = parse_record(data, path, Release)
        if release.stage != stage:
            continue
        signature = f"{path.removesuffix('.json')}.sig.json"
        if signature not in names:
            raise SignatureRefused(path, "this release record is not signed")
        key = git.show(tree, commit, "policy/signing.pub")
        verify_bytes(key, data, git.show(tree, commit, signature), path)
        return release
    raise UnknownName(folder, "release record", name, records)


def resolve_release(settings: Settings, name: str) -> Release:
    """The release that holds for `line@stage`, its signature checked."""
    with open_workspace(settings) as workspace:
        return read_release(workspace.root, release_commit(workspace.root, name), name)


@contextmanager
def fetch_weights(settings: Settings, name: str) -> Iterator[ReleaseOnDisk]:
    """The weights of `line@stage`, linked from the shared cache and re-hashed.

    Raises DigestMismatch when cache or remote hold other bytes than the release names.
    """
    with open_workspace(settings) as workspace:
        commit = release_commit(workspace.root, name)
        git.git(workspace.root, "checkout", "--quiet", "--detach", commit)
        release = read_release(workspace.root, commit, name)
        folder = restore_weights(workspace, release)
        yield ReleaseOnDisk(release=release, weights=folder)


def restore_weights(workspace: Workspace, release: Release) -> Path:
    """Bring a release's weights into a clone and compare every byte with the release record."""
    folder = Layout(workspace.root).weights(release.model)
    try:
        workspace.restore(f"models/{release.model}")
    except CommandFailed as error:
        raise DigestMismatch(folder, release.weight_digest, _pull_fact(error)) from error
    if not folder.is_dir():
        raise DigestMismatch(folder, release.weight_digest, "no bytes that the store vouches for")
    actual = weight_digest(build_manifest(folder))
    if actual != release.weight_digest:
        raise DigestMismatch(folder, release.weight_digest, actual)
    return folder


def audit(settings: Settings, name: str) -> Audit:
    """Prove a release again from the registry and the remote alone: nothing local is trusted.

    Raises what cannot be expressed as a failed check: an unknown release, a wrong signature.
    """
    with open_workspace(settings, shared_cache=False) as workspace:
        commit = release_commit(workspace.root, name)
        git.git(workspace.root, "checkout", "--quiet", "--detach", commit)
        release = read_release(workspace.root, commit, name)
        checks = [
            AuditCheck(
                check="release record", passed=True, fact=f"{release.version}, signature holds"
            )
        ]
        checks.append(_audit_weights(workspace, release))
        checks += _audit_records(workspace, release)
        checks += _audit_waivers(workspace, release)
        checks.append(_audit_manifest_signature(workspace, release))
        return Audit(release=release, checks=tuple(checks))


def _audit_weights(workspace: Workspace, release: Release) -> AuditCheck:
    try:
        restore_weights(workspace, release)
    except DigestMismatch as error:
        return AuditCheck(check="weights", passed=False, fact=str(error))
    size = sum(entry.size_bytes for entry in release.files)
    fact = f"{len(release.files)} files, {size} bytes, digest {release.weight_digest}"
    return AuditCheck(check="weights", passed=True, fact=fact)


def _audit_records(workspace: Workspace, release: Release) -> list[AuditCheck]:
    layout, name = Layout(workspace.root), release.model
    expected = {
        layout.origin(name) / "manifest.json": release.origin_sha256,
        layout.verification(name) / "verification.json": release.verification_sha256,
        layout.verdict(name) / "verdict.json": release.verdict_sha256,
    }
    checks = []
    for path, digest in expected.items():
        try:
            workspace.restore(str(path.parent.relative_to(workspace.root)))
            actual = sha256_file(path)
        except (CommandFailed, FileNotFoundError) as error:
            checks.append(AuditCheck(check=path.name, passed=False, fact=str(error)))
            continue
        same = actual == digest
        fact = f"sha256 {actual}" if same else f"released with {digest}, found {actual}"
        checks.append(AuditCheck(check=path.name, passed=same, fact=fact))
    return checks


def _audit_waivers(workspace: Workspace, release: Release) -> list[AuditCheck]:
    """Waivers that the verification rests on must hold today; most releases have none."""
    path = Layout(workspace.root).verification(release.model) / "verification.json"
    if not path.is_file():
        return []
    record = read_record(path, VerificationRecord)
    waived = [finding for finding in record.findings if finding.waiver is not None]
    if not waived:
        return []
    ended = expired(record, today())
    fact = "; ".join(ended) if ended else f"{len(waived)} waived findings, none has ended"
    return [AuditCheck(check="waivers", passed=not ended, fact=fact)]


def _audit_manifest_signature(workspace: Workspace, release: Release) -> AuditCheck:
    layout = Layout(workspace.root)
    bundle = layout.manifest_signature(release.model)
    try:
        check_manifest_signature(
            workspace.root / "policy" / "signing.pub", layout.weights(release.model), bundle
        )
    except SignatureRefused as error:
        return AuditCheck(check="manifest signature", passed=False, fact=str(error))
    return AuditCheck(check="manifest signature", passed=True, fact="holds for every file")


def _pull_fact(error: CommandFailed) -> str:
    lines = [line for line in error.output.splitlines() if "ERROR" in line or "corrupt" in line]
    return lines[0].strip() if lines else "bytes that DVC refused"


def _version_key(path: str) -> tuple[int, ...]:
    numbers = PurePosixPath(path).stem.removeprefix("v").split(".")
    return tuple(int(number) for number in numbers if number.isdigit())
