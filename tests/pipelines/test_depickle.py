"""Pickles come in only as safetensors, after every scanner passed them; nothing in them runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.depickle import CannotDepickle, depickle
from pipelines.errors import UnusableSource
from pipelines.ingest import IngestConfig, ingest
from pipelines.models_file import DeclaredUse, ModelEntry
from pipelines.records import ManifestRecord
from pipelines.references import parse_reference
from pipelines.sources import dispatch
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import VerifyConfig, verify, verify_folder
from tests.corpus.bases import licence_text

ADMITS = VerificationPolicy(pickle="depickle")


def write_pickle(path: Path, content: object) -> None:
    import torch

    torch.save(content, path)


class Reaches:
    """Pickles as a call that leaves a trace."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))


@pytest.fixture
def pickled(tiny_llama: Path, tmp_path: Path) -> Path:
    """The tiny Llama as old programs saved it: two shards, an index, a tied copy of a tensor."""
    from safetensors.torch import load_file

    folder = tmp_path / "source"
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "LICENSE").write_text(licence_text())
    tensors = load_file(tiny_llama / "model.safetensors")
    names = sorted(tensors)
    parts: Mapping[str, list[str]] = {
        "pytorch_model-00001-of-00002.bin": names[:5],
        "pytorch_model-00002-of-00002.bin": names[5:],
    }
    weight_map = {name: shard for shard, members in parts.items() for name in members}
    for shard, members in parts.items():
        state = {name: tensors[name] for name in members}
        if "model.norm.weight" in state:
            state["model.norm.copy.weight"] = state["model.norm.weight"]
            weight_map["model.norm.copy.weight"] = shard
        write_pickle(folder / shard, state)
    said = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(said))
    return folder


def take_in(source: Path, folder: Path, policy: VerificationPolicy) -> ManifestRecord:
    wanted = Wanted(reference=parse_reference(f"file://{source}"), pickled=True)
    home = folder / "home"
    config = IngestConfig(
        name="tiny",
        entry=ModelEntry(
            reference=str(dispatch.resolve(wanted, ObjectStore(home))), convert="depickle"
        ),
        code_digest="c" * 64,
        home=home,
        pickle_scanners=policy.pickle_scanners if policy.pickle == "depickle" else None,
    )
    return ingest(config, folder / "weights", folder / "origin")


def rules(folder: Path, policy: VerificationPolicy, out: str) -> set[str]:
    config = VerifyConfig(
        name="tiny", use=DeclaredUse(), policy=policy, policy_sha256="a" * 64, code_digest="c" * 64
    )
    record = verify(config, folder / "weights", folder / "origin", folder / out)
    return {finding.rule for finding in record.findings if finding.severity == "refusal"}


def test_honest_pickles_become_safetensors_that_pass(
    pickled: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    record = take_in(pickled, tmp_path, ADMITS)

    files = {entry.path for entry in record.files}
    assert {"model-00001-of-00002.safetensors", "model.safetensors.index.json"} <= files
    assert not any("pytorch_model" in name for name in files)
    loaded: dict[str, Any] = {}
    for path in (tmp_path / "weights").glob("*.safetensors"):
        loaded |= load_file(path)
    original = load_file(tiny_llama / "model.safetensors")
    assert loaded.keys() == original.keys()
    assert all(bool((loaded[name] == original[name]).all()) for name in original)
    assert record.derivation is not None
    assert record.derivation.method == "depickle"
    assert "picklescan" in str(record.derivation.settings["scanners"])
    assert record.derivation.settings["aliases_left_out"] == "model.norm.copy.weight"
    assert len(record.derivation.source_files) == 2
    assert rules(tmp_path, ADMITS, "admitted") == set()
    assert rules(tmp_path, VerificationPolicy(), "default") == {"pickle.converted"}
    both = VerificationPolicy(pickle="depickle", pickle_scanners=("picklescan", "modelaudit"))
    assert rules(tmp_path, both, "both") == {"pickle.judge"}


def test_the_default_policy_fetches_nothing(pickled: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableSource, match="the policy refuses them"):
        take_in(pickled, tmp_path, VerificationPolicy())
    assert not (tmp_path / "weights").exists()


def test_a_pickle_in_a_model_folder_is_refused_whatever_the_policy(pickled: Path) -> None:
    record = verify_folder(pickled, DeclaredUse(), ADMITS)
    named = {f.file for f in record.findings if f.severity == "refusal"}
    assert "pytorch_model-00001-of-00002.bin" in named


def test_a_pickle_that_calls_something_is_refused_and_never_run(tmp_path: Path) -> None:
    import torch

    canary, source = tmp_path / "canary", tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    write_pickle(source / "pytorch_model.bin", {"a": torch.ones(2), "b": Reaches(canary)})

    with pytest.raises(UnusableSource, match=r"picklescan refuses pytorch_model\.bin"):
        take_in(source, tmp_path, ADMITS)
    assert not canary.exists()


def test_what_no_scanner_knows_is_not_called_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even past the scanners, the reader calls nothing (the scanner here says yes to all)."""
    import torch

    canary, source, programs = tmp_path / "canary", tmp_path / "source", tmp_path / "programs"
    source.mkdir()
    programs.mkdir()
    write_pickle(source / "pytorch_model.bin", {"a": torch.ones(2), "b": Reaches(canary)})
    liar = programs / "picklescan"
    liar.write_text("#!/bin/sh\necho 'Scanned files: 1'\necho 'Infected files: 0'\n")
    liar.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    with pytest.raises(CannotDepickle, match="it holds more than tensors"):
        depickle(source, tmp_path / "out", ("picklescan",))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [({"step": 7}, "is a int, no tensor"), ([1, 2], "not tensors by name")],
)
def test_only_tensors_by_name_are_converted(content: object, message: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_pickle(source / "pytorch_model.bin", content)
    with pytest.raises(CannotDepickle, match=message):
        depickle(source, tmp_path / "out", ("picklescan",))


def test_a_file_that_the_scanner_cannot_read_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "pytorch_model.bin").write_bytes(b"no pickle at all")
    with pytest.raises(CannotDepickle, match="could not read"):
        depickle(source, tmp_path / "out", ("picklescan",))


def test_an_absent_scanner_refuses(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_pickle(source / "pytorch_model.bin", {})
    if shutil.which("modelaudit") is None:
        with pytest.raises(CannotDepickle, match="modelaudit judge pickles, and it is not inst"):
            depickle(source, tmp_path / "out", ("modelaudit",))
    with pytest.raises(CannotDepickle, match="lists no scanner"):
        depickle(source, tmp_path / "out", ())
