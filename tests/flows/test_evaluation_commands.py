"""`weighbridge contamination` on folders: no registry, exit codes for scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.evaluation_checks import check_contamination
from pipelines.errors import NotARegistry

SMOKE = Path(__file__).parents[2] / "evals" / "suites" / "smoke"


def weighbridge(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHBRIDGE_")}
    argv = [sys.executable, "-m", "flows.cli", *arguments]
    paths = {"PYTHONPATH": str(SMOKE.parents[2])}
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=cwd, env=environ | paths
    )


@pytest.fixture
def leaked(tmp_path: Path) -> Path:
    """Training data that hold every question of one task."""
    folder = tmp_path / "notes"
    folder.mkdir()
    shutil.copy(SMOKE / "everyday.jsonl", folder / "train.jsonl")
    return folder


def test_overlap_is_shown_and_exits_1_above_the_asked_share(leaked: Path, tmp_path: Path) -> None:
    argv = ("contamination", "--suite", str(SMOKE), "--dataset", str(leaked))
    shown = weighbridge(*argv, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "everyday: 14 of 14 items (100.0 %)" in shown.stdout
    asked = weighbridge(*argv, "--max-share", "0.5", "--json", cwd=tmp_path)
    assert asked.returncode == 1, asked.stderr
    found = json.loads(asked.stdout)
    assert found["share"] == 1.0
    assert "everyday-01" in found["tasks"][0]["overlapping"]


def test_a_name_needs_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHBRIDGE_REGISTRY", raising=False)
    with pytest.raises(NotARegistry):
        check_contamination(("notes",), str(SMOKE))
