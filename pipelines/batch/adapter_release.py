"""The adapter of a release, for jobs that run it on the weights of its base.

An adapter is named by the release that was gated with it. Where that release holds merged weights,
its training record says which adapter was merged into which base; an adapter that was ingested is
itself what was released. Either way the base must be the job's model, by digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipelines.batch.records import AdapterOnDisk
from pipelines.canonical import sha256_bytes
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import AdapterForOtherBase, ConfigError, DigestMismatch
from pipelines.finetune import ADAPTER
from pipelines.merge import ADAPTER_CONFIG
from pipelines.records import ManifestRecord, RecordT, Release, TrainingRecord, parse_record
from pipelines.releases import read_release, release_commit, restore_weights
from pipelines.settings import Settings
from pipelines.store import git
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace


@contextmanager
def fetch_adapter(settings: Settings, name: str, base: Release) -> Iterator[AdapterOnDisk]:
    """The adapter of the release `name`, every byte re-hashed; gone when the block ends.

    Raises what `fetch_weights` raises, ConfigError when that release has no adapter, and
    AdapterForOtherBase when it was trained on other weights than those of `base`.
    """
    with open_workspace(settings) as workspace:
        found = _checked_out(workspace, name)
        if found.base_digest != base.weight_digest:
            raise AdapterForOtherBase(Path(name), base.weight_digest, found.base_digest)
        actual = weight_digest(build_manifest(found.folder))
        if actual != found.digest:
            raise DigestMismatch(found.folder, found.digest, actual)
        yield AdapterOnDisk(name=name, folder=found.folder, digest=found.digest)


def adapter_digest(settings: Settings, name: str) -> str:
    """The digest of a release's adapter as its evidence states it; nothing is hashed."""
    with open_workspace(settings) as workspace:
        return _checked_out(workspace, name).digest


class _Found(NamedTuple):
    """An adapter's folder, the digest that evidence gives it, and the base that it changes."""

    folder: Path
    digest: str
    base_digest: str


def _checked_out(workspace: Workspace, name: str) -> _Found:
    """The adapter of a release, in a clone that is put at the release's commit."""
    commit = release_commit(workspace.root, name)
    git.git(workspace.root, "checkout", "--quiet", "--detach", commit)
    return _find(workspace, read_release(workspace.root, commit, name), name)


def _find(workspace: Workspace, release: Release, name: str) -> _Found:
    """Where a release's adapter lies; its origin is held against the release record first."""
    layout = Layout(workspace.root)
    origin = layout.origin(release.model)
    workspace.restore(str(origin.relative_to(workspace.root)))
    manifest = _record(origin / "manifest.json", release.origin_sha256, ManifestRecord)
    adapted = [parent for parent in manifest.pedigree if parent.relation == "adapter-of"]
    if adapted:
        folder = restore_weights(workspace, release)
        if (folder / ADAPTER_CONFIG).is_file():
            return _Found(folder, release.weight_digest, adapted[0].weight_digest)
    stated = manifest.derivation.settings if manifest.derivation else {}
    expected = stated.get("training_sha256")
    if not isinstance(expected, str):
        raise ConfigError(
            "adapter",
            f"{name} ({release.model}) was neither tuned here nor ingested as an adapter",
            "Name the release of an adapter, or run this one as the job's model.",
        )
    training = _record(origin / "training.json", expected, TrainingRecord)
    return _Found(origin / ADAPTER, training.adapter_digest, training.base_digest)


def _record(path: Path, expected: str, kind: type[RecordT]) -> RecordT:
    """A record of the origin; raises DigestMismatch unless it is the one that was released."""
    if not path.is_file():
        raise DigestMismatch(path, expected, "no bytes that the store vouches for")
    data = path.read_bytes()
    if (actual := sha256_bytes(data)) != expected:
        raise DigestMismatch(path, expected, actual)
    return parse_record(data, path, kind)
