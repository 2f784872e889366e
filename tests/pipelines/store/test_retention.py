"""What `weighbridge gc` keeps and removes, on a real registry, cache and remote."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, DigestMismatch
from pipelines.settings import Settings
from pipelines.store import git
from pipelines.store.collection import collect, recover, remove
from pipelines.store.integrity import locked_outputs
from pipelines.store.remote import FolderRemote, open_remote
from pipelines.store.retention import (
    DAY_S,
    REMOVING,
    Item,
    Plan,
    RetentionConfig,
    parse_period,
    parse_size,
)
from pipelines.store.workspace import Workspace, open_workspace

Machine = Callable[[str], Settings]
LATER_S = 3 * DAY_S  # the tests' objects are seconds old: look at them from later

LIVE = """
import sys
from pathlib import Path
from pipelines.settings import Settings
from pipelines.store.workspace import open_workspace
with open_workspace(Settings(origin=sys.argv[1], home=Path(sys.argv[2]))) as workspace:
    if len(sys.argv) > 3:
        workspace.restore(sys.argv[3])
    print(workspace.root, flush=True)
    sys.stdin.read()
"""


def look(settings: Settings, later_s: float = LATER_S, **options: object) -> Plan:
    config = RetentionConfig.model_validate(options)
    return collect(settings, config, time.time() + later_s)


def cached(settings: Settings, address: str) -> Path:
    return settings.cache / "files" / "md5" / address[:2] / address[2:]


def addresses(items: tuple[Item, ...]) -> set[str]:
    return {item.address for item in items if item.address}


def rerun(workspace: Workspace, content: str, key: str = "a") -> str:
    """Change a stage's input, run it, publish; returns its output's address."""
    (workspace.root / f"in-{key}.txt").write_text(content)
    workspace.reproduce(f"copy@{key}")
    workspace.publish(f"run {content}")
    return locked_outputs(workspace.root)[f"out/{key}.txt"]


def live_process(settings: Settings, *target: str) -> tuple[subprocess.Popen[str], Path]:
    """Another process with a clone; it ends when its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE, settings.origin, str(settings.home), *target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.fixture(scope="module")
def history_template(
    toy_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A machine with four results of one stage: released, staged by name, superseded, current."""
    base = tmp_path_factory.mktemp("history") / "all"
    shutil.copytree(toy_template, base)
    settings = Settings(origin=str(base / "origin.git"), home=base / "one")
    found = []
    with open_workspace(settings) as workspace:
        for number, tags in enumerate((["toy@v1.0.0"], ["toy#production#1"], [], [])):
            found.append(rerun(workspace, f"result {number}\n"))
            for tag in tags:
                git.git(workspace.root, "tag", tag)
                git.git(workspace.root, "push", "--quiet", "origin", f"refs/tags/{tag}")
    return base, found


@pytest.fixture
def history(history_template: tuple[Path, list[str]], tmp_path: Path) -> tuple[Settings, list[str]]:
    """A copy of that machine, its origin and its remote (which lies in its home)."""
    base = tmp_path / "history"
    shutil.copytree(history_template[0], base)
    return Settings(origin=str(base / "origin.git"), home=base / "one"), history_template[1]


def test_only_what_no_tag_and_no_branch_names_may_go(history: tuple[Settings, list[str]]) -> None:
    settings, (released, staged, superseded, current) = history
    plan = look(settings)
    assert addresses(plan.going) == {superseded}
    (item,) = [item for item in plan.going if item.address]
    assert "a.txt (" in item.what
    assert {kept.why for kept in plan.kept} >= {
        "release toy@v1.0.0",
        "release toy#production#1",
        "origin/main now",
    }
    assert cached(settings, superseded).is_file(), "a plan changes nothing"

    done = remove(settings, plan.going)
    assert done.size_bytes == plan.going_bytes
    assert not cached(settings, superseded).exists()
    assert all(cached(settings, kept).is_file() for kept in (released, staged, current))
    assert look(settings).going == ()


def test_what_was_removed_is_restored_from_the_remote(history: tuple[Settings, list[str]]) -> None:
    settings, found = history
    remove(settings, look(settings).going)
    with open_workspace(settings) as workspace:
        git.git(workspace.root, "checkout", "--quiet", "--detach", "HEAD~1")
        workspace.restore("copy@a")
        assert (workspace.root / "out/a.txt").read_text() == "result 2\n"
    assert cached(settings, found[2]).is_file()


def test_nothing_within_the_grace_period_may_go(history: tuple[Settings, list[str]]) -> None:
    settings, _ = history
    plan = look(settings, later_s=0)
    assert plan.going == ()
    assert "used within the grace period" in {kept.why for kept in plan.kept}
    assert look(settings, later_s=60, older_than_s=1).going != ()


def test_what_is_linked_into_a_work_tree_stays(
    history: tuple[Settings, list[str]], tmp_path: Path
) -> None:
    settings, found = history
    os.link(cached(settings, found[2]), tmp_path / "somebody's")
    plan = look(settings)
    assert addresses(plan.going) == set()
    assert "linked into a work tree" in {kept.why for kept in plan.kept}


def test_what_is_taken_up_after_the_plan_stays(
    history: tuple[Settings, list[str]], tmp_path: Path
) -> None:
    settings, found = history
    going = look(settings).going
    os.link(cached(settings, found[2]), tmp_path / "linked since")
    done = remove(settings, going)
    assert done.taken_up == (cached(settings, found[2]),)
    assert cached(settings, found[2]).is_file()


def test_what_a_live_clone_names_or_may_have_looked_at_stays(
    history: tuple[Settings, list[str]],
) -> None:
    settings, found = history
    process, root = live_process(settings)
    try:
        assert addresses(look(settings).going) == {found[2]}, "unused since before it began"
        os.utime(cached(settings, found[2]))
        plan = look(settings)
        assert addresses(plan.going) == set()
        assert "a run is live" in {kept.why for kept in plan.kept}

        (root / "more.dvc").write_text(f"outs:\n- md5: {found[2]}\n")
        plan = look(settings)
        assert f"running in {root.parent.name}" in {kept.why for kept in plan.kept}
        assert [item for item in plan.going if item.kind == "clone"] == []
    finally:
        process.communicate()


def test_a_clone_whose_process_was_killed_is_garbage_with_its_links(
    history: tuple[Settings, list[str]],
) -> None:
    settings, found = history
    with open_workspace(settings) as workspace:
        git.git(workspace.root, "checkout", "--quiet", "--detach", "HEAD~1")
        git.git(workspace.root, "push", "--quiet", "origin", "HEAD:refs/heads/old")
    process, root = live_process(settings, "copy@a")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    os.link(cached(settings, found[2]), root / "a link of the dead")
    with open_workspace(settings) as workspace:
        git.git(workspace.root, "push", "--quiet", "--delete", "origin", "old")

    plan = look(settings)
    assert [item.path for item in plan.going if item.kind == "clone"] == [root.parent]
    assert addresses(plan.going) == {found[2]}
    assert remove(settings, plan.going).taken_up == ()
    assert list(settings.clones.iterdir()) == []
    assert not cached(settings, found[2]).exists()


def test_what_a_folder_that_is_kept_lists_is_kept(toy: Machine) -> None:
    settings = toy("one")
    with open_workspace(settings) as workspace:
        folder = workspace.root / "data"
        folder.mkdir()
        (folder / "x").write_text("x")
        (folder / "y").write_text("y")
        workspace.dvc("add", "--quiet", "data")
        workspace.dvc("push", "--quiet")
        workspace.publish("data")
    assert look(settings).going == ()
    listing = next(path for path in settings.cache.rglob("*.dir"))
    listing.unlink()
    assert look(settings).going == (), "the remote tells what a listing holds that is not here"

    listing.write_text("[]")
    assert look(settings).going == ()
    with open_workspace(settings) as workspace:
        remote = open_remote(workspace.root, workspace.dvc.settings())
    assert isinstance(remote, FolderRemote)
    stored = remote._objects / listing.relative_to(settings.cache / "files" / "md5")
    stored.chmod(0o644)
    stored.write_text("[]")
    with pytest.raises(DigestMismatch, match="none in the remote"):
        look(settings)


def put(settings: Settings, data: bytes, *, pushed: bool = True) -> str:
    """An object that no commit names, in the cache and (unless said) in the remote."""
    address = hashlib.md5(data).hexdigest()
    folders = [settings.cache / "files" / "md5"]
    folders += [settings.home / "dvc-remote" / "files" / "md5"] if pushed else []
    for folder in folders:
        path = folder / address[:2] / address[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o444)
    return address


def test_what_was_never_pushed_goes_only_when_that_is_said(
    history: tuple[Settings, list[str]],
) -> None:
    settings, found = history
    unpushed = put(settings, b"never pushed", pushed=False)
    truncated = put(settings, b"not whole in the remote")
    remote = settings.home / "dvc-remote" / "files" / "md5" / truncated[:2] / truncated[2:]
    remote.chmod(0o644)
    remote.write_bytes(b"not whole")
    plan = look(settings)
    assert addresses(plan.going) == {found[2]}
    assert addresses(plan.not_in_remote) == {unpushed, truncated}
    assert {item.what for item in plan.not_in_remote} == {"never in a commit"}
    plan = look(settings, not_in_remote=True)
    remove(settings, plan.going)
    assert not cached(settings, unpushed).exists()
    assert look(settings).not_in_remote == ()


def test_a_budget_takes_the_least_recently_used_and_no_more(
    history: tuple[Settings, list[str]],
) -> None:
    settings, _ = history
    for number in range(4):
        put(settings, bytes([number]) * 10_000)
        time.sleep(0.01)
    everything = look(settings)
    budget = everything.total_bytes - 15_000

    plan = look(settings, budget_bytes=budget)
    assert plan.going == everything.going[: len(plan.going)]
    assert plan.within_budget == everything.going[len(plan.going) :]
    assert plan.total_bytes - plan.going_bytes <= budget
    assert plan.total_bytes - plan.going_bytes + plan.going[-1].size_bytes > budget
    assert plan.over_budget_bytes == 0
    assert remove(settings, plan.going).size_bytes == plan.going_bytes

    plan = look(settings, budget_bytes=1)
    assert len(plan.within_budget) == 0
    assert plan.over_budget_bytes == plan.total_bytes - plan.going_bytes - 1 > 0


def test_run_cache_entries_go_with_their_outputs(history: tuple[Settings, list[str]]) -> None:
    settings, _ = history
    plan = look(settings)
    entries = [item for item in plan.going if item.kind == "run cache"]
    assert len(entries) == 1
    remove(settings, plan.going)
    assert len(list((settings.cache / "runs").glob("??/*/*"))) == 3


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("downloads/incoming/x.part", "partial download"),
        ("downloads/scratch/x/file", "partial download"),
        ("downloads/pypi/x.whl", "package"),
        ("downloads/sources/x.json", "listing"),
        ("cache/files/md5/aa/.tmp1234", "partial download"),
    ],
)
def test_leftovers_go_after_the_grace_period_unless_locked(
    toy: Machine, place: str, kind: str
) -> None:
    settings = toy("one")
    path = settings.home / place
    path.parent.mkdir(parents=True)
    path.write_text("half")
    assert look(settings, later_s=60).going == ()
    plan = look(settings)
    assert [item.kind for item in plan.going] == [kind]
    remove(settings, plan.going)
    assert not path.exists()


def test_checkpoints_have_two_weeks_and_their_training_may_be_running(toy: Machine) -> None:
    import fcntl

    settings = toy("one")
    folder = settings.home / "training" / "key"
    folder.mkdir(parents=True)
    (folder / "checkpoint").write_text("state")
    lock = folder.with_name("key.lock")
    lock.touch()
    assert look(settings, later_s=10 * DAY_S).going == ()
    going = look(settings, later_s=15 * DAY_S).going
    assert [item.kind for item in going] == ["training"]
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove(settings, going).taken_up == (folder,)
    assert remove(settings, going).count == 1
    assert not folder.exists()


def test_a_collection_that_was_killed_is_finished_by_the_next(
    history: tuple[Settings, list[str]], tmp_path: Path
) -> None:
    settings, found = history
    gone, linked = cached(settings, found[2]), cached(settings, found[1])
    os.link(linked, tmp_path / "a user's link")
    for path in (gone, linked):
        path.rename(path.with_name(path.name + REMOVING))
    recover(settings.cache)
    assert linked.is_file(), "somebody linked to it"
    assert not gone.exists()
    assert list(settings.cache.rglob(f"*{REMOVING}")) == []


def test_a_collection_that_is_killed_between_two_objects_can_be_run_again(
    history: tuple[Settings, list[str]],
) -> None:
    settings, found = history
    others = [put(settings, bytes([number])) for number in range(3)]
    child = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from pipelines.settings import Settings\n"
        "from pipelines.store import collection\n"
        "from pipelines.store.retention import RetentionConfig\n"
        "settings = Settings(origin=sys.argv[1], home=Path(sys.argv[2]))\n"
        "plan = collection.collect(settings, RetentionConfig(), time.time() + 3e5)\n"
        "rename = os.rename\n"
        "def die(old, new):\n"
        "    rename(old, new)\n"
        "    os.kill(os.getpid(), 9)\n"
        "os.rename = die\n"
        "collection.remove(settings, plan.going)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", child, settings.origin, str(settings.home)],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list(settings.cache.rglob(f"*{REMOVING}"))) == 1
    recover(settings.cache)
    remove(settings, look(settings).going)
    assert cached(settings, found[3]).is_file()
    assert not any(cached(settings, address).exists() for address in [found[2], *others])


def test_a_persons_work_tree_protects_what_it_has_not_pushed(
    history: tuple[Settings, list[str]], tmp_path: Path
) -> None:
    settings, found = history
    tree = tmp_path / "mine"
    git.git(tmp_path, "clone", "--quiet", settings.origin, str(tree))
    (tree / "dvc.lock").write_text(f"md5: {found[2]}\n")
    mine = settings.model_copy(update={"work_tree": tree})
    plan = look(mine)
    assert addresses(plan.going) == set()
    assert f"work tree {tree}" in {kept.why for kept in plan.kept}


@pytest.mark.parametrize(
    ("text", "size"),
    [("200GB", 200 * 10**9), ("1.5 TiB", 3 * 2**39), ("10mb", 10**7), ("0.5kB", 500)],
)
def test_sizes_are_decimal_or_binary_as_written(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["200", "200G", "200 GBB", "-1GB", "1,5GB", "two GB", "", "GB"])
def test_a_size_with_a_typo_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1", "1day", "-1d", "d", "1.5d", ""])
def test_a_period_with_a_typo_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a period"):
        parse_period(text)
    assert parse_period("12h") == DAY_S / 2


def test_a_remote_that_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    config = {"core.remote": "store", "remote.store.url": "ssh://host/path"}
    with pytest.raises(ConfigError, match="cannot be asked"):
        open_remote(tmp_path, config)
    shutil.rmtree(tmp_path)
