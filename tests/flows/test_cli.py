"""The command line as a user meets it: exit codes, one clear line, --json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_registry

from pipelines.settings import Settings

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def registry_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_registry.make(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def registry(registry_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return toy_registry.copied(registry_template, tmp_path / "toy", monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def weighbridge(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "flows.cli", *arguments]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False
        )

    return weighbridge


def test_a_stage_does_not_pay_for_prefect_or_torch() -> None:
    code = (
        "import sys, flows.cli, flows.stage_command; "
        "print([m for m in ('prefect', 'torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_init_makes_a_registry_and_refuses_one_that_is_there(run: Run, tmp_path: Path) -> None:
    made = run("init", "models", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["registry"] == str(tmp_path / "models")
    for name in (
        "models/dvc.yaml",
        "models/models.yaml",
        "models/policy/signing.pub",
        "origin.git",
    ):
        assert (tmp_path / name).exists()
    assert (tmp_path / "models/.weighbridge/signing.key").stat().st_mode & 0o077 == 0
    again = run("init", "models")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "a folder with files in it" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("stage", "ingest", "absent"), 2, "no model named 'absent'"),
        (("stage", "polish", "x"), 2, "no stage named 'polish'"),
        (("show", "absent"), 2, "no model or tuning named 'absent'"),
        (("audit", "mail@production"), 2, "no release named"),
        (("audit", "mail"), 2, "line@stage"),
        (("add", "ftp://x", "--name", "mine"), 2, "'ftp' is not known"),
        (("add", "file:///absent", "--name", "mine"), 3, "/absent"),
        (("add", "file:///absent", "--name", "Mine.1"), 2, "Try 'mine-1'"),
        (("verify", "/etc/passwd"), 1, "a folder of weights"),
        (("batch", "run", "absent.yaml"), 2, "a YAML file"),
        (("pull", "absent"), 2, "no model or tuning named 'absent'"),
    ],
)
def test_wrong_input_is_one_clear_line_and_its_exit_code(
    registry: Settings, run: Run, arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert registry.work_tree is not None
    done = run(*arguments, cwd=registry.work_tree)
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert done.returncode == code


def test_outside_a_registry_every_command_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEIGHBRIDGE_REGISTRY", raising=False)
    for arguments in (("show",), ("doctor",), ("audit", "a@b")):
        done = run(*arguments)
        assert done.returncode == 2
        assert "not a Weighbridge registry" in done.stderr


def test_wrong_options_are_usage_errors(run: Run) -> None:
    assert run("promote", "x", "--stage", "moon").returncode == 2
    assert run("fly").returncode == 2


def test_show_and_doctor_print_one_json_document(registry: Settings, run: Run) -> None:
    assert registry.work_tree is not None
    shown = run("show", "--json", cwd=registry.work_tree)
    assert json.loads(shown.stdout) == {"Models": [], "Releases": []}
    examined = run("doctor", "--json", cwd=registry.work_tree)
    checks = {f["check"]: f["passed"] for f in json.loads(examined.stdout)["findings"]}
    assert checks["code of verify"]
    assert checks["sqlalchemy"]


def test_dvc_alone_runs_the_release_graph(registry: Settings) -> None:
    """Without Prefect: `dvc repro` in the work tree, as a person would."""
    assert registry.work_tree is not None
    argv = [sys.executable, "-m", "dvc", "repro", "--dry"]
    done = subprocess.run(argv, cwd=registry.work_tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_gate_decides_from_two_folders_of_samples(run: Run, tmp_path: Path) -> None:
    def write(name: str, right: range) -> None:
        lines = [
            {
                "doc_id": number,
                "doc_hash": f"{number:064x}",
                "prompt_hash": f"{number:064x}",
                "filter": "none",
                "metrics": ["acc"],
                "acc": float(number in right),
            }
            for number in range(1000)
        ]
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "samples_some_2026-11-22T10-00-00.5.jsonl").write_text(text)

    write("old", range(600))
    write("same", range(10, 610))
    write("worse", range(400))
    write("short", range(600))
    (tmp_path / "policy.yaml").write_text("alpha: 0.05\ntasks: {'*': {margin: 0.05}}\n")
    short = tmp_path / "short/samples_some_2026-11-22T10-00-00.5.jsonl"
    short.write_text(short.read_text().replace("1.0}", "NaN}", 1))
    wanted = ("--baseline", "old", "--policy", "policy.yaml", "--json")

    passed = run("gate", "--candidate", "same", *wanted)
    blocked = run("gate", "--candidate", "worse", *wanted)
    unusable = run("gate", "--candidate", "short", *wanted)
    unclear = run("gate", "some-model", "--candidate", "same", *wanted)

    assert (passed.returncode, json.loads(passed.stdout)["outcome"]) == (0, "pass")
    assert (blocked.returncode, json.loads(blocked.stdout)["outcome"]) == (1, "block")
    assert unusable.returncode == 3
    assert "not a finite number" in unusable.stderr
    assert unclear.returncode == 2
