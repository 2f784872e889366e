"""Names, links and special files, before anything is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.errors import WrongKindOfPath
from pipelines.models_file import DeclaredUse
from pipelines.verification.filesystem import list_folder
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder


def rules(folder: Path) -> set[str]:
    return {finding.rule.removeprefix("filesystem.") for finding in list_folder(folder).findings}


def test_a_link_is_refused_even_to_equal_content(model: Path) -> None:
    (model.parent / "copy.json").write_bytes((model / "config.json").read_bytes())
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(model.parent / "copy.json")
    record = verify_folder(model, DeclaredUse(), VerificationPolicy())
    assert not record.passed
    assert record.weight_digest == ""
    assert ("filesystem.link", "config.json") in {(f.rule, f.file) for f in record.findings}


def test_linked_folders_pipes_and_broken_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to("/etc")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = {(f.rule, f.file) for f in list_folder(tmp_path).findings}
    assert found == {
        ("filesystem.link", "folder"),
        ("filesystem.link", "broken"),
        ("filesystem.special", "pipe"),
    }


def test_hidden_files_are_refused_except_those_of_git(tmp_path: Path) -> None:
    (tmp_path / ".gitattributes").write_text("*.bin\n")
    assert rules(tmp_path) == set()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    assert rules(tmp_path) == {"hidden"}


@pytest.mark.parametrize(
    "name", ["a\nb", "a:b", "con\\fig", " config.json", "a.", "a\u202eb", "a|b"]
)
def test_names_that_programs_read_differently_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    assert rules(tmp_path) == {"name"}


@pytest.mark.parametrize(
    ("one", "other"),
    [("config.json", "Config.json"), ("e\u0301.txt", "\u00e9.txt"), ("ﬁle.txt", "file.txt")],
)
def test_names_that_are_one_name_elsewhere_are_refused(
    tmp_path: Path, one: str, other: str
) -> None:
    (tmp_path / one).write_text("x")
    (tmp_path / other).write_text("y")
    assert rules(tmp_path) == {"collision"}


def test_a_name_that_is_not_utf8_is_a_finding(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.txt")).write_text("x")
    listing = list_folder(tmp_path)
    assert [(f.rule, f.file) for f in listing.findings] == [("filesystem.encoding", "a\\udcff.txt")]
    assert not listing.has_identity


def test_a_huge_sparse_file_is_refused_without_reading_it(model: Path) -> None:
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 40)
    record = verify_folder(model, DeclaredUse(), VerificationPolicy())
    assert "filesystem.sparse" in {finding.rule for finding in record.findings}


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert rules(tmp_path) == {"empty"}
    assert not verify_folder(tmp_path, DeclaredUse(), VerificationPolicy()).passed


def test_a_file_or_nothing_instead_of_a_folder_is_an_error(model: Path) -> None:
    for path in (model / "config.json", model / "nothing"):
        with pytest.raises(WrongKindOfPath):
            verify_folder(path, DeclaredUse(), VerificationPolicy())
