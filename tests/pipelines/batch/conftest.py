"""A model folder with a real but tiny tokenizer, and jobs over small corpora."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import SCHEMA, make_tiny_model

from pipelines.batch.job import BatchJob, Corpus, Limits, Prompt
from pipelines.batch.records import ModelOnDisk
from tests.s3_server import S3Server


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelOnDisk:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Forty documents of text."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(40):
        (folder / f"document-{number:03}.txt").write_text(f"This is document {number}.\n")
    return folder


@pytest.fixture
def make_job(tmp_path: Path, corpus: Path) -> Callable[..., BatchJob]:
    """A job over `corpus` with eight rows a shard; keywords change it."""

    def make(**changes: Any) -> BatchJob:
        given: dict[str, Any] = {
            "name": "colours",
            "model": "tiny@production",
            "corpus": Corpus(path=corpus),
            "classification": "internal",
            "prompt": Prompt(template="Which colour?\n{{ text }}"),
            "output_schema": SCHEMA,
            "sampling": {"max_tokens": 64},
            "engine": {"max_in_flight": 12},
            "limits": Limits(max_error_rate=1.0),
            "shard_rows": 8,
            "output": str(tmp_path / "out"),
        }
        return BatchJob.model_validate({**given, **changes})

    return make


@pytest.fixture
def s3_output(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A prefix in a new bucket, with the environment that reaches it."""
    for name, value in s3_server.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"s3://{s3_server.bucket()}/{tmp_path.name}"
