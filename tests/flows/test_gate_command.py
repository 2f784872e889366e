"""`weighbridge gate` on two folders: no registry, no server, exit codes for scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.verdicts import judge_folders
from pipelines.errors import NoVerdict, exit_code


def samples(folder: Path, right: int, items: int = 1000) -> Path:
    folder.mkdir()
    lines: list[dict[str, Any]] = [
        {
            "doc_id": n,
            "doc": {"question": n},
            "target": "0",
            "metrics": ["acc"],
            "acc": float(n < right),
            "prompt_hash": f"{n:064x}",
        }
        for n in range(items)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "samples_capitals_2026-11-22T10-00-00.123456.jsonl").write_text(text)
    return folder


def weighbridge(at: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "flows.cli", "gate", *map(str, arguments)]
    root = str(Path(__file__).parents[2])
    environ = os.environ | {"PYTHONPATH": root}
    return subprocess.run(argv, cwd=at, capture_output=True, text=True, check=False, env=environ)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text('alpha: 0.05\ntasks: {"*": {margin: 0.02}}\n')
    return path


@pytest.mark.parametrize(
    ("right", "items", "code", "outcome"),
    [(600, 1000, 0, "pass"), (500, 1000, 1, "block"), (60, 100, 1, "cannot_tell")],
)
def test_exit_code_says_pass_and_the_document_says_which_of_the_others(
    tmp_path: Path, policy: Path, right: int, items: int, code: int, outcome: str
) -> None:
    base = samples(tmp_path / "base", items * 6 // 10, items)
    other = samples(tmp_path / "other", right, items)
    done = weighbridge(
        tmp_path, "--candidate", other, "--baseline", base, "--policy", policy, "--json"
    )
    assert done.returncode == code, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["outcome"] == outcome
    (task,) = verdict["tasks"]
    assert task["interval"][0] <= task["difference"] <= task["interval"][1]
    assert 0 < task["smallest_margin"] <= task["detectable_margin"]


def test_evidence_that_carries_no_verdict_exits_with_3(tmp_path: Path, policy: Path) -> None:
    base = samples(tmp_path / "base", 600)
    (tmp_path / "empty").mkdir()
    done = weighbridge(
        tmp_path, "--candidate", "empty", "--baseline", base, "--policy", policy, "--json"
    )
    assert done.returncode == 3
    assert json.loads(done.stdout)["outcome"] == "unusable"
    assert "no verdict: empty: " in done.stderr


@pytest.mark.parametrize("folder", ["empty", "absent", "base"])
def test_a_folder_without_evidence_and_a_folder_given_twice_carry_no_verdict(
    tmp_path: Path, policy: Path, folder: str
) -> None:
    base = samples(tmp_path / "base", 600)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoVerdict) as caught:
        judge_folders(tmp_path / folder, base, policy, False)
    assert exit_code(caught.value) == 3


def test_a_policy_with_a_mistake_exits_with_2(tmp_path: Path, policy: Path) -> None:
    base, other = samples(tmp_path / "base", 600), samples(tmp_path / "other", 600)
    policy.write_text("alpha: 0.05\ntasks: {'*': {margin: 0.02}}\nforce: true\n")
    done = weighbridge(tmp_path, "--candidate", other, "--baseline", base, "--policy", policy)
    assert (done.returncode, done.stdout) == (2, "")
    assert "force: unknown key" in done.stderr
