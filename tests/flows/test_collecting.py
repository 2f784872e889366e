"""`weighbridge gc` as a platform engineer meets it: a dry run by default, one line on a typo."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.collecting import collect_garbage, human, parse_config, tables
from pipelines.errors import ConfigError
from pipelines.settings import Settings

DATA = b"a superseded model" * 100
ADDRESS = "c5/a9b1b0e4a5d3a7d3bd9d4bd0ae5a53"  # never compared with the bytes by a collection


@pytest.fixture
def superseded(toy: Settings) -> Path:
    """An object that nothing names, in the cache and in the remote, and a day old wheel."""
    remote = Path(toy.origin).parent / "remote"
    for folder in (remote, toy.cache):
        path = folder / "files" / "md5" / ADDRESS
        path.parent.mkdir(parents=True)
        path.write_bytes(DATA)
        path.chmod(0o444)
    wheel = toy.downloads / "pypi" / "model.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"wheel")
    os.utime(wheel, (0, 0))
    return toy.cache / "files" / "md5" / ADDRESS


def gc(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["gc", "--json", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report: dict[str, object] = json.loads(done.stdout)
    return report


def test_gc_shows_and_removes_only_when_told(toy: Settings, superseded: Path) -> None:
    shown = gc("--older-than", "0m")
    assert shown["removed"] is None
    assert superseded.is_file()
    removed = gc("--older-than", "0m", "--remove")["removed"]
    assert isinstance(removed, dict)
    assert removed["count"] == 2
    assert removed["size_bytes"] == len(DATA) + len(b"wheel")
    assert not superseded.exists()
    assert not (toy.downloads / "pypi" / "model.whl").exists()
    assert toy.signing_key.is_file()


def test_the_default_leaves_a_day_of_grace(superseded: Path) -> None:
    removed = gc("--remove")["removed"]
    assert isinstance(removed, dict)
    assert removed["count"] == 1  # the wheel
    assert superseded.is_file()


def test_a_budget_that_cannot_be_met_is_a_fact_and_no_error(
    toy: Settings, superseded: Path
) -> None:
    config = parse_config("1kB", "1d", not_in_remote=False)
    collected = collect_garbage(toy, config, removing=True)
    totals = dict(tables(collected)[-1].rows)
    assert totals["budget"] == "1.0 kB"
    assert totals["budget not reached"] == f"{human(len(DATA) - 1000)} over: what is left must stay"
    assert superseded.is_file()


def test_the_tables_name_what_goes_why_and_how_much(toy: Settings, superseded: Path) -> None:
    config = parse_config("", "0m", not_in_remote=False)
    going, totals = tables(collect_garbage(toy, config, removing=False))
    kinds = {row[0]: row[1:4] for row in going.rows}
    why = "no release, branch, work tree or run needs it"
    assert kinds["object"] == ("never in a commit", why, "1.8 kB")
    assert kinds["package"] == ("model.whl", "can be fetched again", "5 B")
    assert dict(totals.rows)["to remove it"].startswith("weighbridge gc --remove")


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [(("200", "1d"), "'200' is not a size"), (("200GB", "1day"), "'1day' is not a period")],
)
def test_a_typo_removes_nothing(arguments: tuple[str, str], fact: str) -> None:
    with pytest.raises(ConfigError, match=fact):
        parse_config(*arguments, not_in_remote=False)


def test_two_collections_take_turns(toy: Settings) -> None:
    lock = toy.home / "gc.lock"
    config = parse_config("", "1d", not_in_remote=False)
    done = threading.Event()

    def second() -> None:
        collect_garbage(toy, config, removing=True)
        done.set()

    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1)
        assert not done.is_set()
    thread.join(60)
    assert done.is_set()
