"""An ingest that is killed at any moment loses nothing that came whole."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.references import parse_reference
from pipelines.sources import dispatch
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore

_CHILD = """
import sys
from pathlib import Path
from pipelines.references import parse_reference
from pipelines.sources import dispatch
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore
print(flush=True)
dispatch.resolve(Wanted(reference=parse_reference(sys.argv[1])), ObjectStore(Path(sys.argv[2])))
"""


def child(source: Path, home: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, f"file://{source}", str(home)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # imports are done
    return process


def make_source(folder: Path, large_bytes: int) -> Path:
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(os.urandom(large_bytes))
    (folder / "b.safetensors").write_bytes(os.urandom(large_bytes // 3))
    for number in range(600):
        (folder / f"{number}.json").write_text(f'"{number}"')
    return folder


def check(source: Path, home: Path) -> None:
    """Finish what the killed ones began, and look at all of it."""
    assert child(source, home).wait() == 0
    store = ObjectStore(home)
    for path in store.objects.rglob("*"):
        if path.is_file():
            name = path.parent.name + path.name
            assert hashlib.md5(path.read_bytes()).hexdigest() == name
            assert path.stat().st_mode & 0o777 == 0o444
    assert [path for path in store.incoming.iterdir() if path.suffix == ".part"] == []
    wanted = Wanted(reference=parse_reference(f"file://{source}"))
    pinned = wanted.model_copy(update={"reference": dispatch.resolve(wanted, store)})
    (home / "model").mkdir()
    fetched = dispatch.fetch(pinned, store, home / "model", home / "origin")
    assert len(fetched.files) == 602
    for entry in fetched.files:
        assert (home / "model" / entry.path).read_bytes() == (source / entry.path).read_bytes()


def test_a_killed_ingest_goes_on_where_it_was(tmp_path: Path) -> None:
    source, home = make_source(tmp_path / "source", 60_000_000), tmp_path / "home"
    process = child(source, home)
    incoming = home / "downloads/incoming"
    while process.poll() is None and not any(
        path.stat().st_size > 1_000_000 for path in incoming.glob("*.part")
    ):
        time.sleep(0.002)
    process.kill()
    process.wait()

    check(source, home)


@pytest.mark.long
def test_a_storm_of_kills_loses_nothing(tmp_path: Path) -> None:
    source, home = make_source(tmp_path / "source", 200_000_000), tmp_path / "home"
    chance = random.Random(3)
    for _ in range(25):
        process = child(source, home)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.wait()

    check(source, home)
