"""`weighbridge suites` as a user meets it: what is there, what is wrong, one from a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """What makes a folder a registry's work tree, and no more."""
    root = tmp_path / "registry"
    (root / ".dvc").mkdir(parents=True)
    (root / "models.yaml").write_text("models: {}\n")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    subprocess.run(["git", "-C", root, "remote", "add", "origin", tmp_path / "o.git"], check=True)
    return root


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def suites(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "flows.cli", "suites", *arguments]
        environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
        return subprocess.run(
            argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    return suites


def test_a_table_becomes_a_suite_of_the_registry(run: Run, registry: Path, tmp_path: Path) -> None:
    table = tmp_path / "tickets.csv"
    rows = "".join(
        f"t{n},Ticket {n}?,{('late', 'broken')[n % 2]},{'ab'[n % 2]}\n" for n in range(8)
    )
    table.write_text("nr,ticket,kind,shop\n" + rows)
    options = ["--id", "nr", "--question", "ticket", "--answer", "kind", "--slice", "shop"]
    made = run("new", "tickets", "--from", str(table), *options, cwd=registry)
    assert made.returncode == 0, made.stderr
    assert "8 items, one of a few labels" in made.stdout
    assert run("validate", "tickets", cwd=registry).stdout.startswith("Valid: ")
    assert run("validate", "registry/suites/tickets").returncode == 0
    listed = json.loads(run("ls", "--json", cwd=registry).stdout)
    assert (listed[0]["place"], listed[0]["suite"], listed[0]["items"]) == (
        "registry",
        "tickets",
        8,
    )


def test_a_table_that_cannot_be_used_exits_1_and_names_lines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("id,question,answer\na,b,\na,c,d\n")
    refused = run("new", "bad", "--from", "bad.csv", "--into", ".")
    assert refused.returncode == 1
    assert "line 2 has no text under 'answer'; the id 'a' stands on lines 2, 3" in refused.stderr


def test_without_a_registry_new_says_where_to_and_ls_shows_what_ships(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "good.csv").write_text("question,answer\na,b\nc,d\n")
    assert run("new", "good", "--from", "good.csv").returncode == 2
    listed = {(t["suite"], t["task"]) for t in json.loads(run("ls", "--json").stdout)}
    assert {("code", "humaneval"), ("general", "gsm8k"), ("safety", "refusal")} <= listed


def test_validate_exits_1_with_every_fact(run: Run, registry: Path) -> None:
    assert run("add", "smoke", cwd=registry).stdout.startswith("Added: ")
    assert run("add", "smoke", cwd=registry).stdout.startswith("There already: ")
    folder = registry / "suites" / "smoke"
    (folder / "repeat.jsonl").write_text('{"id": "a"}\n{"id": "a"}\n')
    (folder / "everyday.jsonl").unlink()
    checked = run("validate", "smoke", "--json", cwd=registry)
    facts = " ".join(json.loads(checked.stdout)["facts"])
    assert checked.returncode == 1
    for fact in ("2 items would be scored", "ids that stand twice: a", "everyday.jsonl"):
        assert fact in facts
    assert run("validate", "smok", cwd=registry).returncode == 2
