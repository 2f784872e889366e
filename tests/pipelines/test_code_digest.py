from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import code_digest
from pipelines.code_digest import check_code, module_digests, write_code_file
from pipelines.errors import CodeDiffers


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two stages that share one module, installed from a lock file."""
    root = tmp_path / "project"
    sources = {
        "pipelines/__init__.py": "",
        "pipelines/ingest.py": "def go():\n    from pipelines import shared\n",
        "pipelines/verify.py": (
            'from . import shared\nRUN = "pipelines.child"\nDATA = "facts.json"\n'
        ),
        "pipelines/shared.py": '"""Doc."""\nX = 1\n',
        "pipelines/child.py": "import os\n",
        "pipelines/facts.json": "{}",
        "pipelines/alone.py": "",
        "requirements/cpu.txt": "a==1\n",
    }
    for name, text in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    prefix = tmp_path / "venv"
    prefix.mkdir()
    monkeypatch.setattr(code_digest, "PROJECT", root)
    monkeypatch.setattr("sys.prefix", str(prefix))
    lock = code_digest.sha256_file(root / "requirements" / "cpu.txt")
    (prefix / code_digest.LOCK_STAMP).write_text(lock)
    module_digests.cache_clear()
    yield root
    module_digests.cache_clear()


def edit(project: Path, name: str, text: str) -> None:
    (project / name).write_text(text)
    module_digests.cache_clear()


def test_lazy_imports_child_processes_and_data_files_belong_to_a_stage(project: Path) -> None:
    assert list(module_digests("pipelines.ingest")) == [
        "pipelines", "pipelines.ingest", "pipelines.shared",
    ]  # fmt: skip
    assert set(module_digests("pipelines.verify")) == {
        "pipelines", "pipelines.verify", "pipelines.shared", "pipelines.child",
        "pipelines/facts.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "stale"),
    [
        ("pipelines/shared.py", "X = 2\n", {"ingest", "verify"}),
        ("pipelines/child.py", "import sys\n", {"verify"}),
        ("pipelines/facts.json", '{"a": 1}', {"verify"}),
        ("pipelines/alone.py", "Y = 1\n", set()),
        ("pipelines/shared.py", '"""Other words."""\n# why\nX = 1\n', set()),
        ("requirements/cpu.txt", "a==2\n", {"ingest", "verify"}),
    ],
)
def test_a_change_makes_exactly_the_stages_stale_that_use_it(
    project: Path, tmp_path: Path, name: str, text: str, stale: set[str]
) -> None:
    for stage in ("ingest", "verify"):
        write_code_file(tmp_path, stage)
    edit(project, name, text)
    assert {stage for stage in ("ingest", "verify") if write_code_file(tmp_path, stage)} == stale


def test_a_stage_refuses_other_code_than_the_registry_names(project: Path, tmp_path: Path) -> None:
    write_code_file(tmp_path, "verify")
    digest = check_code(tmp_path, "verify")
    assert check_code(tmp_path, "verify") == digest
    edit(project, "pipelines/child.py", "import sys\n")
    with pytest.raises(CodeDiffers, match=r"pipelines\.child differs.*doctor --accept"):
        check_code(tmp_path, "verify")


def test_a_stage_refuses_an_environment_of_unknown_origin(project: Path, tmp_path: Path) -> None:
    write_code_file(tmp_path, "ingest")
    path = tmp_path / "code" / "ingest.json"
    named = json.loads(path.read_text())
    named["environments"] = {"cpu": "0" * 64}
    path.write_text(json.dumps(named))
    with pytest.raises(CodeDiffers, match="built from lock"):
        check_code(tmp_path, "ingest")


def test_a_stage_refuses_a_registry_that_names_no_code(project: Path, tmp_path: Path) -> None:
    with pytest.raises(CodeDiffers, match="absent"):
        check_code(tmp_path, "gate")
