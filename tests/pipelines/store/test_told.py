"""What DVC makes of outputs whose hashes it was told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.references import parse_reference
from pipelines.sources import dispatch
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore
from pipelines.store.told import state_folder, tell_dvc


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A DVC repository that shares its cache with the store, with one output from the store."""
    root = tmp_path / "tree"
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "model.safetensors").write_bytes(b"weights" * 400_000)
    (source / "sub/config.json").write_bytes(b"{}")
    root.mkdir()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    dvc(root, "init", "-q")
    (root / ".dvc/config.local").write_text(
        f'[cache]\n    dir = {tmp_path}/home/cache\n    type = "reflink,hardlink,copy"\n'
    )
    return root


def dvc(root: Path, *arguments: str) -> str:
    argv = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(argv, cwd=root, check=True, capture_output=True, text=True).stdout


def test_dvc_takes_the_hash_that_it_is_told_and_copies_nothing(tree: Path, tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "home")
    wanted = Wanted(reference=parse_reference(f"file://{tmp_path}/source"))
    pinned = wanted.model_copy(update={"reference": dispatch.resolve(wanted, store)})
    (tree / "model").mkdir()
    fetched = dispatch.fetch(pinned, store, tree / "model", tmp_path / "origin")
    # Bytes that DVC does not read cannot tell it that they changed: with the size and the time of
    # before, only a second reading would show it.
    weights = tree / "model/model.safetensors"
    before = weights.stat()

    told = tell_dvc(tree, tree / "model", fetched.files, store)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.write(b"WEIGHTS")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    weights.chmod(0o444)
    dvc(tree, "add", "-q", "model")

    assert told == 2
    objects = store.find({entry.sha256 for entry in fetched.files})
    md5s = {found.md5 for found in objects.values()}
    cached = {path.parent.name + path.name for path in store.objects.rglob("*") if path.is_file()}
    assert {md5 for md5 in cached if not md5.endswith(".dir")} == md5s
    assert weights.stat().st_ino == before.st_ino  # still the link, not a copy


def test_files_that_did_not_come_from_the_store_are_left_to_dvc(tree: Path, tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "home")
    wanted = Wanted(reference=parse_reference(f"file://{tmp_path}/source"))
    pinned = wanted.model_copy(update={"reference": dispatch.resolve(wanted, store)})
    (tree / "model").mkdir()
    fetched = dispatch.fetch(pinned, store, tree / "model", tmp_path / "origin")
    weights = tree / "model/model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data)

    assert tell_dvc(tree, tree / "model", fetched.files, store) == 1


def test_the_state_is_where_dvc_keeps_it(tree: Path) -> None:
    from dvc.repo import Repo

    before = state_folder(tree)
    with Repo(str(tree)) as repo:
        assert str(before) == repo.site_cache_dir
    assert state_folder(tree) == before
