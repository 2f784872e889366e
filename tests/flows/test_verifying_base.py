"""What `weighbridge verify --base` says about weights beside the model that they were made from."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from flows.verifying import FolderOptions, Verified, judge
from tests.tiny_models import make_tiny_llama


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_tiny_llama(tmp_path / "base")
    return tmp_path / "base"


def against(base: Path, model: Path) -> Verified:
    return judge(str(model), FolderOptions(base=base))


def changed(base: Path, folder: Path) -> Path:
    """A copy of the base in which one matrix is other."""
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"] *= 1.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_tensors_that_differ_from_the_base_are_named(base: Path, tmp_path: Path) -> None:
    verified = against(base, changed(base, tmp_path / "tuned"))

    (found,) = (f for f in verified.record.findings if f.rule == "base.changes")
    assert "1 of" in found.fact
    assert "q_proj.weight' by 0.5" in found.fact


def test_a_base_that_cannot_be_read_refuses(base: Path, tmp_path: Path) -> None:
    tuned = changed(base, tmp_path / "tuned")
    (base / "model.safetensors").write_bytes(b"\xff" * 64)

    verified = against(base, tuned)

    assert not verified.passed
    assert "base.unreadable" in {f.rule for f in verified.record.findings}
