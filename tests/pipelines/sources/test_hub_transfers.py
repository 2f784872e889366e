from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import NoSpaceLeft, SourceChanged, TransferCutOff, WrongAnswer
from pipelines.ingest import no_space_named
from tests.hub_server import Fault, HubServer, Repository
from tests.pipelines.sources.hub_model import (
    NAME,
    TAKEN,
    WEIGHTS,
    contents,
    fetch,
    fetching_child,
    partial_bytes,
    resolve,
    serving,
)

MIB = 1024 * 1024
FILE = "model.safetensors"
# What a kill or a full disk may cost again: the buffer being filled, and what was on its way.
LOST_AT_MOST = MIB


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def repository(hub: HubServer) -> Repository:
    return hub.repositories[NAME]


def ranges(hub: HubServer) -> list[str]:
    """The ranges of the weights that were asked for and given."""
    return [request.range for request in hub.contents(FILE)]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(times=3, after_bytes=MIB, then="close"),
        Fault(times=3, after_bytes=MIB, then="reset"),
        Fault(times=2, after_bytes=MIB, then="silence"),
    ],
    ids=["close", "reset", "silence"],
)
def test_a_connection_that_breaks_is_taken_up_again_at_the_byte_reached(
    monkeypatch: pytest.MonkeyPatch,
    hub: HubServer,
    repository: Repository,
    tmp_path: Path,
    fault: Fault,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    times = fault.times
    repository.faults[FILE] = fault

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN
    first, *rest = ranges(hub)
    assert not first
    assert len(rest) >= times - 1
    assert all(asked.startswith("bytes=") for asked in rest)


def test_a_connection_that_ends_early_costs_no_byte_twice(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    repository.faults[FILE] = Fault(times=2, after_bytes=MIB, then="close")

    fetch(tmp_path / "home", tmp_path / "out")

    assert ranges(hub) == ["", f"bytes={MIB}-", f"bytes={2 * MIB}-"]
    assert sum(request.sent_bytes for request in hub.contents(FILE)) == len(WEIGHTS)


@pytest.mark.parametrize(
    ("path", "status"),
    [(FILE, 408), (FILE, 429), (FILE, 500), ("config.json", 502), (FILE, 503), ("LICENSE", 504)],
)
def test_an_answer_that_asks_to_come_again_is_obeyed(
    repository: Repository, tmp_path: Path, path: str, status: int
) -> None:
    repository.faults[path] = Fault(times=3, status=status)

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 55),
    ],
)
def test_the_hub_is_left_alone_for_as_long_as_it_asks(
    monkeypatch: pytest.MonkeyPatch,
    repository: Repository,
    tmp_path: Path,
    headers: dict[str, str],
    wait_s: float,
) -> None:
    slept: list[float] = []
    # In place of the time that would really pass.
    monkeypatch.setattr("pipelines.sources.hub_transfer.sleep", slept.append)
    repository.faults[FILE] = Fault(times=1, status=429, headers=headers)

    fetch(tmp_path / "home", tmp_path / "out")

    assert slept == [wait_s]


def test_a_hub_that_asks_for_too_long_a_pause_is_left_to_the_next_run(
    repository: Repository, tmp_path: Path
) -> None:
    repository.faults[FILE] = Fault(times=1, status=429, headers={"Retry-After": "3600"})

    with pytest.raises(TransferCutOff, match="429, and asks to come back in 3600 s"):
        fetch(tmp_path / "home", tmp_path / "out")


def test_an_address_whose_signature_ran_out_is_asked_for_anew(
    repository: Repository, tmp_path: Path
) -> None:
    repository.faults[FILE] = Fault(times=1, status=403)  # by the host that keeps the blobs

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(then="reset"), Fault(then="close"), Fault(then="silence")],
    ids=["500", "reset", "close", "silence"],
)
def test_a_transfer_that_never_goes_on_ends_and_keeps_what_came(
    monkeypatch: pytest.MonkeyPatch,
    hub: HubServer,
    repository: Repository,
    tmp_path: Path,
    fault: Fault,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    cut_off(hub, repository, tmp_path / "home", tmp_path / "first")
    repository.faults[FILE] = fault

    with pytest.raises(TransferCutOff, match=rf"{FILE}: {2 * MIB} of {len(WEIGHTS)} bytes came"):
        fetch(tmp_path / "home", tmp_path / "second")

    assert not contents(tmp_path / "second")
    only_the_rest_comes(hub, repository, tmp_path)


def cut_off(hub: HubServer, repository: Repository, home: Path, folder: Path) -> None:
    """Fetch with a connection that is cut after 2 MiB, and a Hub that then asks for an hour."""
    repository.faults[FILE] = Fault(times=1, after_bytes=2 * MIB, then="close")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.store.resuming._ATTEMPTS", 0)
        with pytest.raises(TransferCutOff):
            fetch(home, folder)
    assert partial_bytes(home) == 2 * MIB


def only_the_rest_comes(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    """The next run on a sound Hub asks for what is missing and nothing else."""
    repository.faults.clear()
    hub.requests.clear()

    fetch(tmp_path / "home", tmp_path / "last")

    assert contents(tmp_path / "last") == TAKEN
    assert ranges(hub) == [f"bytes={2 * MIB}-"]


def test_a_partial_file_is_of_use_after_its_branch_has_moved(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    cut_off(hub, repository, tmp_path / "home", tmp_path / "first")
    files = {**repository.files, "README.md": b"# A better text\n"}
    moved = Repository(files=files, large=repository.large, commit="beef" * 10)
    hub.repositories[NAME] = moved
    hub.requests.clear()

    fetch(tmp_path / "home", tmp_path / "last", resolve(tmp_path / "home", f"hf://{NAME}@main"))

    assert contents(tmp_path / "last") == TAKEN
    assert ranges(hub) == [f"bytes={2 * MIB}-"]


def test_files_that_came_before_another_failed_are_not_fetched_again(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipelines.sources.hub.HubSource.streams", 1)  # one after the other
    repository.files["tokenizer.json"] = b"{}"
    repository.faults["tokenizer.json"] = Fault(status=500)
    with pytest.raises(TransferCutOff, match=r"tokenizer\.json: 0 of 2 bytes .*answered 500"):
        fetch(tmp_path / "home", tmp_path / "first")
    repository.faults.clear()
    hub.requests.clear()

    fetch(tmp_path / "home", tmp_path / "second")

    assert not contents(tmp_path / "first")
    assert contents(tmp_path / "second") == {**TAKEN, "tokenizer.json": b"{}"}
    assert not hub.contents(FILE)
    assert not hub.contents("config.json")


def test_a_server_without_ranges_is_read_from_the_start(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    repository.ignores_range = True
    repository.faults[FILE] = Fault(times=1, after_bytes=MIB, then="close")

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN


@pytest.mark.parametrize("form", ["unsized", "compressed"])
def test_an_answer_without_a_length_or_compressed_is_read(
    repository: Repository, tmp_path: Path, form: str
) -> None:
    setattr(repository, form, True)

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN


def test_a_part_of_a_compressed_form_is_a_wrong_answer(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    cut_off(hub, repository, tmp_path / "home", tmp_path / "first")
    repository.compressed = True

    with pytest.raises(WrongAnswer, match=f"for bytes={2 * MIB}-"):
        fetch(tmp_path / "home", tmp_path / "second")

    repository.compressed = False
    only_the_rest_comes(hub, repository, tmp_path)


@pytest.mark.parametrize("path", [FILE, "config.json", "LICENSE"])
def test_other_bytes_of_the_same_size_are_refused(
    hub: HubServer, repository: Repository, tmp_path: Path, path: str
) -> None:
    repository.served[path] = repository.files[path][:-1] + b"?"

    with pytest.raises(SourceChanged, match=path):
        fetch(tmp_path / "home", tmp_path / "first")

    assert not contents(tmp_path / "first")
    repository.served.clear()
    fetch(tmp_path / "home", tmp_path / "second")
    assert contents(tmp_path / "second") == TAKEN


@pytest.mark.parametrize("ignores_range", [False, True])
@pytest.mark.parametrize(
    "other", [WEIGHTS[: 2 * MIB + 1], WEIGHTS[:MIB], WEIGHTS + b"!", b"<html>"]
)
def test_a_file_of_another_size_is_a_wrong_answer_and_costs_nothing_that_came(
    hub: HubServer, repository: Repository, tmp_path: Path, other: bytes, ignores_range: bool
) -> None:
    cut_off(hub, repository, tmp_path / "home", tmp_path / "first")
    repository.served[FILE], repository.ignores_range = other, ignores_range

    with pytest.raises(WrongAnswer, match=f"has a file of {len(other)} bytes, not {len(WEIGHTS)}"):
        fetch(tmp_path / "home", tmp_path / "second")

    repository.served, repository.ignores_range = {}, False
    only_the_rest_comes(hub, repository, tmp_path)


def test_an_answer_for_another_commit_is_refused(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    repository.said_commit = "beef" * 10

    with pytest.raises(WrongAnswer, match=f"answers for commit {'beef' * 10}"):
        fetch(tmp_path / "home", tmp_path / "first")

    assert not contents(tmp_path / "first")


def test_a_mirror_that_leaves_the_commit_out_is_let_pass(
    repository: Repository, tmp_path: Path
) -> None:
    repository.said_commit = None

    fetch(tmp_path / "home", tmp_path / "out")

    assert contents(tmp_path / "out") == TAKEN


def test_a_full_disk_is_named_and_costs_nothing_that_came(
    monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path
) -> None:
    # A test cannot fill a disk, and RLIMIT_FSIZE says EFBIG: os.write says what a full disk would.
    write = os.write

    def write_until_full(descriptor: int, data: memoryview) -> int:
        if partial_bytes(tmp_path / "home") >= 2 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr("os.write", write_until_full)
        with pytest.raises(NoSpaceLeft), no_space_named(tmp_path):
            fetch(tmp_path / "home", tmp_path / "first")

    assert not contents(tmp_path / "first")
    hub.requests.clear()
    fetch(tmp_path / "home", tmp_path / "second")
    assert contents(tmp_path / "second") == TAKEN
    assert ranges(hub) == [f"bytes={2 * MIB}-"]


def test_a_killed_transfer_is_resumed_where_it_was(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    repository.bytes_per_s = 4 * MIB
    kill_after(MIB, tmp_path)
    repository.bytes_per_s = 0

    fetch(tmp_path / "home", tmp_path / "last")

    assert contents(tmp_path / "last") == TAKEN
    assert int(ranges(hub)[-1].removeprefix("bytes=").removesuffix("-")) >= MIB
    assert hub.sent_bytes() <= total_bytes(repository) + LOST_AT_MOST


def kill_after(partial: int, tmp_path: Path) -> bool:
    """Start a fetch and kill it with `partial` bytes in the store; False if it ended before."""
    child = fetching_child(tmp_path / "home", tmp_path / f"killed-{partial}-{time.monotonic_ns()}")
    while child.poll() is None:
        if partial_bytes(tmp_path / "home") >= partial:
            child.kill()
            child.wait()
            return True
        time.sleep(0.005)
    assert child.returncode == 0
    return False


def total_bytes(repository: Repository) -> int:
    """The size of all files that are taken: model, licence and card."""
    taken = [*TAKEN, "LICENSE", "README.md"]
    return sum(len(repository.files[name]) for name in taken)


@pytest.mark.long
def test_twenty_kills_cost_no_more_than_what_was_on_its_way(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    draw = random.Random(20)
    weights = draw.randbytes(32 * MIB)
    repository.files[FILE] = weights
    repository.bytes_per_s = 8 * MIB
    kills = sorted(draw.randrange(1, 31 * MIB) for _ in range(20))

    for at in kills:
        assert kill_after(at, tmp_path)
    repository.bytes_per_s = 0
    fetch(tmp_path / "home", tmp_path / "last")

    assert contents(tmp_path / "last")[FILE] == weights
    assert hub.sent_bytes() <= total_bytes(repository) + 20 * LOST_AT_MOST


def test_two_ingests_of_one_model_at_once_fetch_it_once(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    repository.bytes_per_s = 4 * MIB
    children = [fetching_child(tmp_path / "home", tmp_path / name) for name in "ab"]

    assert [child.wait() for child in children] == [0, 0]

    assert contents(tmp_path / "a") == contents(tmp_path / "b") == TAKEN
    assert hub.sent_bytes() == total_bytes(repository)
