"""Weights against their base: what changed is measured, and what nobody declared is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Rules
from safetensors.numpy import load_file, save_file
from tiny_model import write_model

from pipelines.errors import WrongKindOfPath
from pipelines.verification.base_diff import compare_with_base

Q = "model.layers.0.self_attn.q_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def found(base: Path, model: Path, trained: frozenset[str] | None = None) -> set[str]:
    return {f"{f.severity} {f.rule}@{f.file}" for f in compare_with_base(base, model, trained)}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base")


def change(model: Path, name: str, factor: float) -> None:
    path = model / "model.safetensors"
    arrays = load_file(path)
    arrays[name] = arrays[name] * np.float32(factor)
    path.unlink()
    save_file(arrays, path, metadata={"format": "pt"})


def test_the_same_weights_did_not_change(model: Path, base: Path) -> None:
    assert found(base, model, frozenset({"q_proj"})) == {"info base.changes@"}


def test_a_change_is_its_relative_norm(model: Path, base: Path, refusals: Rules) -> None:
    change(model, Q, 1.5)
    (only,) = compare_with_base(base, model)
    assert only.fact == f"1 of 20 tensors differ from the base: {Q!r} by 0.5"
    assert found(base, model, frozenset({"q_proj"})) == {"info base.changes@"}


def test_a_change_that_the_record_does_not_name_is_refused(model: Path, base: Path) -> None:
    change(model, UP, 1.01)
    assert "refusal base.undeclared-change@model.safetensors" in found(
        base, model, frozenset({"q_proj", "v_proj"})
    )


@pytest.mark.parametrize(
    ("trained", "severity"), [(None, "warning"), (frozenset({"q"}), "refusal")]
)
def test_another_template_tokenizer_or_tensor_is_seen(
    model: Path, base: Path, trained: frozenset[str] | None, severity: str
) -> None:
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "tokenizer.json").write_text("{}")
    path = model / "model.safetensors"
    arrays = load_file(path)
    arrays["evil.weight"] = arrays.pop(Q)
    path.unlink()
    save_file(arrays, path, metadata={"format": "pt"})
    assert found(base, model, trained) - {"info base.changes@"} == {
        f"{severity} base.template@chat_template.jinja",
        f"{severity} base.tokenizer@tokenizer.json",
        f"{severity} base.extra-tensor@model.safetensors",
        f"{severity} base.missing-tensor@",
    }


def test_a_base_that_is_no_folder_is_an_error(model: Path) -> None:
    with pytest.raises(WrongKindOfPath):
        list(compare_with_base(model / "config.json", model))
