"""Fixtures of the verification tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import write_model

from pipelines.models_file import DeclaredUse
from pipelines.records import VerificationRecord
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder

Rules = Callable[..., set[str]]


@pytest.fixture(autouse=True)
def derived_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of transformers are kept for this run, never in the user's home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "derived"))
    monkeypatch.delenv("WEIGHBRIDGE_HOME", raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny honest repository that a test may break."""
    return write_model(tmp_path / "model")


@pytest.fixture
def refusals() -> Rules:
    """The rules that refuse a folder, each as 'rule' or 'rule@file' with `files=True`."""

    def judge(folder: Path, *, files: bool = False, **policy: object) -> set[str]:
        record = verify_folder(folder, DeclaredUse(), VerificationPolicy.model_validate(policy))
        return _rules(record, files=files)

    return judge


def _rules(record: VerificationRecord, *, files: bool) -> set[str]:
    refused = [finding for finding in record.findings if finding.severity == "refusal"]
    assert record.passed is not bool(refused)
    return {f"{f.rule}@{f.file}" if files else f.rule for f in refused}
