"""The adapter of a release: found by its evidence, and never another one's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.batch import adapter_release
from pipelines.batch.adapter_release import adapter_digest, fetch_adapter
from pipelines.canonical import sha256_bytes, sha256_file, write_record
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import AdapterForOtherBase, ConfigError, DigestMismatch
from pipelines.records import Ancestor, Derivation, ManifestRecord, Release, TrainingRecord
from pipelines.settings import Settings

BASE = "ba" * 32


def release_of(root: Path) -> Release:
    """The release of what lies under `root`; only what is read of it is true."""
    facts = dict.fromkeys(("verdict_sha256", "verification_sha256", "template_sha256"), "0" * 64)
    return Release(
        release="mail", version="v1.0.0", stage="production", model="tuned", commit="c",
        weight_digest="11" * 32, files=(), supersedes="", **facts,
        origin_sha256=sha256_file(root / "evidence/tuned/origin/manifest.json"),
    )  # fmt: skip


def tuned(root: Path, method: str = "lora-merge") -> Path:
    """The origin of a model as `finetune` leaves it, as far as it matters here."""
    origin = root / "evidence" / "tuned" / "origin"
    (origin / "adapter").mkdir(parents=True)
    (origin / "adapter" / "adapter_model.safetensors").write_bytes(b"the adapter")
    zero = "0" * 64
    training = TrainingRecord(
        name="tuned", weight_digest="11" * 32, base="base", base_digest=BASE, recipe_sha256=zero,
        adapter_digest=weight_digest(build_manifest(origin / "adapter")), dataset="d",
        dataset_sha256=zero, code_digest=zero, rows=1, rows_without_loss=0, steps=1, losses=(),
        template_sha256=zero, data_checks_sha256=zero, parity_max_logprob_difference=0.0,
        settings={}, tools={},
    )  # fmt: skip
    write_record(origin / "training.json", training)
    stated = {"training_sha256": sha256_file(origin / "training.json")}
    manifest = ManifestRecord(
        name="tuned", weight_digest="11" * 32, files=(), reference="tuning:tuned", code_digest=zero,
        derivation=Derivation(
            method=method, source_files=(), settings=stated if method == "lora-merge" else {}
        ),
        pedigree=(Ancestor(name="base", weight_digest=BASE, relation="merged-from", licences=()),),
    )  # fmt: skip
    write_record(origin / "manifest.json", manifest)
    return origin


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone that holds one release. Git and DVC are stood in for: other tests run them."""

    @contextmanager
    def workspace(_: Settings) -> Iterator[Any]:
        yield SimpleNamespace(root=tmp_path, restore=lambda *targets: None)

    monkeypatch.setattr(adapter_release, "open_workspace", workspace)
    monkeypatch.setattr(adapter_release, "release_commit", lambda root, name: "c")
    monkeypatch.setattr("pipelines.store.git.git", lambda *arguments: "")
    monkeypatch.setattr(adapter_release, "read_release", lambda root, *_: release_of(root))
    return tmp_path


def fetch(base: str = BASE) -> tuple[str, bytes]:
    """Digest and bytes of the adapter of the one release, for a job on the base of that digest."""
    held = SimpleNamespace(weight_digest=base)
    settings: Any = None
    with fetch_adapter(settings, "mail@production", held) as adapter:  # type: ignore[arg-type]
        assert adapter_digest(settings, "mail@production") == adapter.digest
        return adapter.digest, (adapter.folder / "adapter_model.safetensors").read_bytes()


def test_the_adapter_of_merged_weights_is_the_one_that_training_recorded(registry: Path) -> None:
    origin = tuned(registry)
    digest = weight_digest(build_manifest(origin / "adapter"))
    assert fetch() == (digest, b"the adapter")


def test_an_adapter_of_another_base_is_refused(registry: Path) -> None:
    tuned(registry)
    with pytest.raises(AdapterForOtherBase, match=BASE):
        fetch("cc" * 32)


def test_an_adapter_whose_bytes_changed_is_refused(registry: Path) -> None:
    origin = tuned(registry)
    (origin / "adapter" / "adapter_model.safetensors").write_bytes(b"another")
    with pytest.raises(DigestMismatch, match="adapter"):
        fetch()


@pytest.mark.parametrize("name", ["training.json", "manifest.json"])
def test_evidence_that_changed_or_went_is_refused(
    registry: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    origin = tuned(registry)
    released = release_of(registry)
    monkeypatch.setattr(adapter_release, "read_release", lambda *_: released)
    (origin / name).write_bytes((origin / name).read_bytes() + b" ")
    with pytest.raises(DigestMismatch, match=name):
        fetch()
    (origin / name).unlink()
    with pytest.raises(DigestMismatch, match="no bytes"):
        fetch()


def test_a_release_without_an_adapter_is_refused(registry: Path) -> None:
    tuned(registry, method="dequantise-gguf")
    with pytest.raises(ConfigError, match="neither tuned here nor ingested as an adapter"):
        fetch()


def test_an_ingested_adapter_is_what_was_released(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = tuned(registry)
    manifest = ManifestRecord.model_validate_json((origin / "manifest.json").read_bytes())
    parent = manifest.pedigree[0].model_copy(update={"relation": "adapter-of"})
    write_record(origin / "manifest.json", manifest.model_copy(update={"pedigree": (parent,)}))
    weights = registry / "models" / "tuned"
    weights.mkdir(parents=True)
    (weights / "adapter_config.json").write_text("{}")
    (weights / "adapter_model.safetensors").write_bytes(b"ingested")
    digest = weight_digest(build_manifest(weights))
    released = release_of(registry).model_copy(update={"weight_digest": digest})
    monkeypatch.setattr(adapter_release, "read_release", lambda *_: released)
    monkeypatch.setattr(adapter_release, "restore_weights", lambda *_: weights)
    assert fetch() == (digest, b"ingested")
    assert sha256_bytes(b"ingested") != digest
