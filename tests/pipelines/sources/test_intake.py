"""What holds for every source: patterns, and what is remembered of a reference."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.errors import SourceNotFound
from pipelines.references import parse_reference
from pipelines.sources import dispatch, intake
from pipelines.sources.intake import Wanted
from pipelines.sources.selection import Selection, select
from pipelines.store.objects import ObjectStore
from pipelines.store.receiving import SMALL_BYTES, Offer, Reader
from pipelines.store.stopping import sleep


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """A model in safetensors with two GGUF copies beside it, as many repositories have it."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("model.safetensors", "m-Q4_K_M.gguf", "m-Q8_0.gguf"):
        (folder / name).write_bytes(name.encode())
    (folder / "config.json").write_text("{}")
    (folder / "LICENSE").write_text("As you like.")
    return folder


def taken(folder: Path, tmp_path: Path, **patterns: tuple[str, ...]) -> list[str]:
    store = ObjectStore(tmp_path / "home")
    wanted = Wanted(reference=parse_reference(f"file://{folder}"), **patterns)
    pinned = wanted.model_copy(update={"reference": dispatch.resolve(wanted, store)})
    arrival = intake.recall(pinned, store)
    assert arrival is not None
    return [file.path for file in arrival.files]


def test_of_several_copies_the_usual_one_is_taken(twice: Path, tmp_path: Path) -> None:
    assert taken(twice, tmp_path) == ["config.json", "model.safetensors", "LICENSE"]


def test_patterns_choose_another_copy(twice: Path, tmp_path: Path) -> None:
    found = taken(twice, tmp_path, include=("*Q4_K_M.gguf",))

    assert found == ["m-Q4_K_M.gguf", "LICENSE"]


def test_patterns_leave_files_out(twice: Path, tmp_path: Path) -> None:
    found = taken(twice, tmp_path, exclude=("*.safetensors", "*Q8*"))

    assert found == ["config.json", "m-Q4_K_M.gguf", "LICENSE"]


@pytest.mark.parametrize("path", ["config.json", "LICENSE"])
def test_one_file_of_a_reference_can_be_looked_at(twice: Path, tmp_path: Path, path: str) -> None:
    store = ObjectStore(tmp_path / "home")
    wanted = Wanted(reference=parse_reference(f"file://{twice}"))

    assert dispatch.peek(wanted, store, path) == (twice / path).read_bytes()
    pinned = wanted.model_copy(update={"reference": dispatch.resolve(wanted, store)})
    assert dispatch.peek(pinned, store, path) == (twice / path).read_bytes()
    assert dispatch.peek(pinned, store, "adapter_config.json") is None


def test_what_is_remembered_counts_only_while_all_of_it_is_there(
    twice: Path, tmp_path: Path
) -> None:
    store = ObjectStore(tmp_path / "home")
    wanted = Wanted(reference=parse_reference(f"file://{twice}"))
    pinned = wanted.model_copy(update={"reference": dispatch.resolve(wanted, store)})
    arrival = intake.recall(pinned, store)
    assert arrival is not None
    (found,) = store.find([arrival.files[0].sha256]).values()

    store.path(found.md5).unlink()

    assert intake.recall(pinned, store) is None
    (tmp_path / "model").mkdir()
    dispatch.fetch(pinned, store, tmp_path / "model", tmp_path / "origin")  # reads it once more
    assert intake.recall(pinned, store) is not None


class OneFailsOneWaits:
    """A source of two large files: one cannot be had, the other's server says to come again."""

    streams, remote = 2, True

    def __init__(self) -> None:
        self.reference = parse_reference("file:///two")
        size = 2 * SMALL_BYTES
        self.offers = {n: Offer("file:///two", n, size, n) for n in ("a.gguf", "b.gguf")}
        self.waiting = threading.Event()

    def select(self, paths: Sequence[str]) -> Selection:
        return select(paths)

    def placed(self, path: str, selection: Selection) -> str:
        return path

    @contextmanager
    def open_at(self, offer: Offer, offset: int) -> Iterator[Reader]:
        if offer.path == "a.gguf":
            self.waiting.wait()
            raise SourceNotFound("file:///two", "it is gone")
        self.waiting.set()
        sleep(3600)
        yield io.BytesIO()


def test_a_transfer_that_waits_ends_when_another_fails(tmp_path: Path) -> None:
    source = OneFailsOneWaits()

    with pytest.raises(SourceNotFound, match="it is gone"):
        intake.bring_in(source, Wanted(reference=source.reference), ObjectStore(tmp_path))
