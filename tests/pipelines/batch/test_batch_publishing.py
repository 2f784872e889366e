"""Publishing: rows are checked by Great Expectations, then versioned by DVC in the registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_registry
from finishing import finish
from scripted_engine import Script
from test_batch_destinations import make_policy

from pipelines.batch.destinations import Place
from pipelines.batch.finished import Finished, finished_job
from pipelines.batch.job import BatchJob
from pipelines.batch.publishing import check_place, publish_rows
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.row_checks import check_rows
from pipelines.errors import (
    BadName,
    ConfigError,
    DestinationRefused,
    ExpectationsFailed,
    NotRedacted,
    OutputDamaged,
)
from pipelines.store import git
from pipelines.store.workspace import open_workspace


@pytest.fixture
def job(make_job: Callable[..., BatchJob], tiny_model: ModelOnDisk) -> Finished:
    made = make_job()
    finish(made, tiny_model, Script(answers={3: ("no answer",) * 2}))
    return finished_job(made.output)


def expectations(path: Path, *asked: tuple[str, dict[str, object]]) -> Path:
    listed = [{"type": kind, "kwargs": settings} for kind, settings in asked]
    path.write_text(json.dumps({"name": "rows", "expectations": listed}))
    return path


def test_expectations_that_hold_are_recorded(job: Finished, tmp_path: Path) -> None:
    file = expectations(
        tmp_path / "rows.yaml",
        ("expect_column_values_to_be_unique", {"column": "id"}),
        ("expect_table_row_count_to_be_between", {"min_value": 40, "max_value": 40}),
        ("expect_column_values_to_be_null", {"column": "error_class", "mostly": 0.9}),
    )
    checks = check_rows(job, file)
    assert checks.rows == 40
    assert [(r.type, r.holds, r.failing) for r in checks.results] == [
        ("expect_column_values_to_be_unique", True, 0),
        ("expect_table_row_count_to_be_between", True, 0),
        ("expect_column_values_to_be_null", True, 1),
    ]


def test_every_expectation_that_fails_is_named_with_its_rows(job: Finished, tmp_path: Path) -> None:
    file = expectations(
        tmp_path / "rows.yaml",
        ("expect_column_values_to_be_null", {"column": "error_class"}),
        ("expect_column_values_to_not_be_null", {"column": "colour"}),
    )
    with pytest.raises(ExpectationsFailed) as caught:
        check_rows(job, file)
    assert "1 rows fail: document-003.txt#0" in str(caught.value)
    assert "column='colour') does not hold (it could not be computed)" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"expectations": []}', "expectations"),
        ('{"expectations": [{"type": "expect_wonders", "kwargs": {}}]}', "has no ExpectWonders"),
        ('{"expectations": [{"type": "expect_column_values_to_be_unique"}]}', "column"),
        ('{"expectation": [{"type": "expect_column_values_to_be_unique"}]}', "expectation"),
    ],
)
def test_a_file_that_is_no_suite_is_refused(
    job: Finished, tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "rows.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        check_rows(job, file)
    assert str(file) in str(caught.value)


def test_a_changed_shard_is_neither_checked_nor_published(job: Finished, tmp_path: Path) -> None:
    name = job.manifest.shards[1].name
    path = Path(job.store.location, name)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    file = expectations(tmp_path / "r", ("expect_column_values_to_be_unique", {"column": "id"}))
    with pytest.raises(OutputDamaged, match=name):
        check_rows(job, file)


def test_published_rows_are_a_version_in_the_registry(
    job: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = toy_registry.make(tmp_path / "made")
    settings = toy_registry.copied(made, tmp_path / "toy", monkeypatch)
    file = expectations(
        tmp_path / "rows.yaml", ("expect_column_values_to_be_unique", {"column": "id"})
    )
    with pytest.raises(BadName):
        publish_rows(settings, job.store.location, "Colours!", file)
    published = publish_rows(settings, job.store.location, "colours", file)
    assert (published.folder, published.expectations) == ("outputs/colours", 1)
    with open_workspace(settings, shared_cache=False) as workspace:
        assert git.head(workspace.root) == published.commit
        workspace.dvc("pull", "outputs/colours.dvc")
        folder = workspace.root / "outputs" / "colours"
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "manifest.json", "checks.json", *(Path(s.name).name for s in job.manifest.shards)
        }  # fmt: skip
    again = publish_rows(settings, job.store.location, "colours", file)
    assert again.commit == published.commit


def test_rows_go_only_where_their_classification_may(job: Finished) -> None:
    bucket = Place("s3://results/weighbridge/x", "https://s3.example.com")
    with pytest.raises(DestinationRefused, match="internal documents may go to here"):
        check_place(make_policy(), job, bucket)
    allow = dict.fromkeys(("public", "internal", "confidential", "restricted"), ("here", "bucket"))
    asked = {"destination": "bucket", "classifications": ["internal"], "rules": ["email"]}
    with pytest.raises(NotRedacted, match="wants email redacted"):
        check_place(make_policy(allow=allow, redact=[asked]), job, bucket)
    check_place(make_policy(allow=allow), job, bucket)
