from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import Busy, CommandFailed, DigestMismatch, SourceNotFound
from pipelines.settings import Settings
from pipelines.store import git
from pipelines.store.integrity import check_outputs, dvc_address, locked_outputs
from pipelines.store.workspace import open_workspace

Machine = Callable[[str], Settings]


def test_a_stage_that_one_machine_ran_is_restored_on_another_without_running(toy: Machine) -> None:
    with open_workspace(toy("gpu")) as first:
        assert first.reproduce("copy@a") == "ran"
        # Published run cache, but a clone that does not see the new dvc.lock.
        first.dvc("push", "--run-cache", "--quiet")
    with open_workspace(toy("laptop")) as second:
        assert second.reproduce("copy@a") == "restored"
        assert (second.root / "out" / "a.txt").read_text() == "a\n"
        assert not (second.root / "runs.log").exists()


def test_a_published_stage_is_unchanged_in_the_next_clone(toy: Machine) -> None:
    machine = toy("one")
    with open_workspace(machine) as first:
        first.reproduce("copy@a")
        first.publish("run a")
    with open_workspace(machine) as second:
        assert second.current() >= {"copy@a"}
        assert second.reproduce("copy@a") == "unchanged"


def test_two_runs_that_race_to_publish_both_arrive(toy: Machine) -> None:
    machine = toy("one")
    with open_workspace(machine) as first, open_workspace(machine) as second:
        first.reproduce("copy@a")
        second.reproduce("copy@b")
        (second.root / "out").mkdir(exist_ok=True)
        (second.root / "out" / "b.run.json").write_text("{}")
        first.publish("run a")
        second.publish("run b")
    with open_workspace(machine) as third:
        assert set(locked_outputs(third.root)) == {"out/a.txt", "out/b.txt"}
        assert (third.root / "out" / "b.run.json").read_text() == "{}"


def test_a_change_is_applied_again_when_origin_moved_on(toy: Machine) -> None:
    machine = toy("one")

    def append(line: str) -> Callable[[Path], list[str]]:
        def apply(root: Path) -> list[str]:
            path = root / "log.txt"
            path.write_text((path.read_text() if path.exists() else "") + line)
            return []

        return apply

    with open_workspace(machine) as first, open_workspace(machine) as second:
        first.change("one", append("one\n"))
        second.change("two", append("two\n"))
        assert (second.root / "log.txt").read_text() == "one\ntwo\n"


def test_a_clone_is_removed_even_when_its_work_fails(toy: Machine) -> None:
    machine = toy("one")
    with pytest.raises(CommandFailed, match="copy@nothing"), open_workspace(machine) as workspace:
        workspace.reproduce("copy@nothing")
    assert list(machine.clones.iterdir()) == []


def test_an_altered_cache_object_is_refused(toy: Machine) -> None:
    machine = toy("one")
    with open_workspace(machine) as first:
        first.reproduce("copy@a")
        first.publish("run a")
    address = dvc_address_of_a(machine)
    cached = machine.cache / "files" / "md5" / address[:2] / address[2:]
    cached.chmod(0o644)
    cached.write_text("A\n")
    cached.chmod(0o444)  # DVC trusts an object that is read-only
    with open_workspace(machine) as second:
        second.restore("copy@a")
        with pytest.raises(DigestMismatch, match=r"out/a\.txt"):
            check_outputs(second.root, "out")


def dvc_address_of_a(machine: Settings) -> str:
    with open_workspace(machine) as workspace:
        return locked_outputs(workspace.root)["out/a.txt"]


def test_dvc_address_of_a_folder_is_what_dvc_itself_records(toy: Machine) -> None:
    with open_workspace(toy("one")) as workspace:
        folder = workspace.root / "data" / "deep"
        folder.mkdir(parents=True)
        (folder / "é.txt").write_text("x")
        (folder.parent / "b.txt").write_text("y")
        workspace.dvc("add", "--quiet", "data")
        recorded = (workspace.root / "data.dvc").read_text()
        assert dvc_address(workspace.root / "data") in recorded


def test_a_registry_that_cannot_be_cloned_is_named(tmp_path: Path) -> None:
    settings = Settings(origin=str(tmp_path / "absent.git"), home=tmp_path / "home")
    with pytest.raises(SourceNotFound, match=r"absent\.git"), open_workspace(settings):
        pass


def test_a_second_dvc_in_one_tree_is_busy(toy: Machine) -> None:
    with open_workspace(toy("one")) as workspace:
        lock = workspace.root / ".dvc" / "tmp" / "rwlock"
        lock.parent.mkdir(exist_ok=True)
        held = {str(workspace.root / "out" / "a.txt"): {"pid": 1, "cmd": "dvc repro"}}
        lock.write_text(json.dumps({"write": held}), encoding="utf-8")
        with pytest.raises(Busy, match="PID 1"):
            workspace.dvc.reproduce("copy@a", workspace.settings.home)


def test_git_tells_a_rejected_push_from_a_broken_one(toy: Machine, tmp_path: Path) -> None:
    machine = toy("one")
    with open_workspace(machine) as workspace:
        (workspace.root / "x").write_text("x")
        git.commit_all(workspace.root, "x")
        git.git(workspace.root, "remote", "set-url", "origin", str(tmp_path / "gone.git"))
        with pytest.raises(CommandFailed):
            git.push(workspace.root)


def test_a_clone_holds_links_to_the_cache_and_no_second_copy(toy: Machine) -> None:
    machine = toy("one")
    with open_workspace(machine) as first:
        first.reproduce("copy@a")
        assert_is_the_object(machine, first.root, "out/a.txt")  # just written by the stage
        first.publish("run a")
    with open_workspace(machine) as second, open_workspace(machine) as third:
        for clone in (second, third):
            clone.restore("copy@a")
            assert_is_the_object(machine, clone.root, "out/a.txt")
        ours = (second.root / "out/a.txt").stat().st_ino
        assert ours == (third.root / "out/a.txt").stat().st_ino


def test_every_file_of_a_folder_that_a_stage_wrote_is_the_object(toy: Machine) -> None:
    machine = toy("one")
    with open_workspace(machine) as workspace:
        graph = "stages:\n  make:\n    cmd: mkdir -p d/e && echo x > d/x && echo y > d/e/y\n"
        (workspace.root / "dvc.yaml").write_text(graph + "    deps: [in-a.txt]\n    outs: [d]\n")
        assert workspace.reproduce("make") == "ran"
        for name in ("d/x", "d/e/y"):
            assert_is_the_object(machine, workspace.root, name)


def test_a_stage_that_writes_known_bytes_again_adds_none_to_the_cache(toy: Machine) -> None:
    machine = toy("one")
    with open_workspace(machine) as workspace:
        workspace.reproduce("copy@a")
        workspace.dvc("repro", "--force", "--no-run-cache", "copy@a")
        assert sum(1 for path in (machine.cache / "files").rglob("*") if path.is_file()) == 1
        assert_is_the_object(machine, workspace.root, "out/a.txt")


def assert_is_the_object(machine: Settings, root: Path, name: str) -> None:
    address = dvc_address(root / name)
    cached = machine.cache / "files" / "md5" / address[:2] / address[2:]
    assert (root / name).stat().st_ino == cached.stat().st_ino
    assert cached.stat().st_mode & 0o777 == 0o444


def test_a_push_that_fails_says_why(toy: Machine, tmp_path: Path) -> None:
    with open_workspace(toy("one")) as workspace:
        workspace.reproduce("copy@a")
        remote = tmp_path / "toy" / "dvc-remote"
        shutil.rmtree(remote, ignore_errors=True)
        remote.write_text("a file where the remote should be")
        with pytest.raises(CommandFailed, match="dvc-remote"):
            workspace.publish("run a")
