from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.canonical import sha256_bytes
from pipelines.errors import AddressCollision, SourceChanged, TransferCutOff
from pipelines.store.objects import ObjectStore, StoredObject
from pipelines.store.receiving import (
    SMALL_BYTES,
    Offer,
    Reader,
    Stated,
    git_blob_sha1,
    known,
    receive,
)

LARGE = os.urandom(3 * SMALL_BYTES + 17)
SMALL = b"a tokenizer's configuration"


class Upstream:
    """A source of one file that notes from where it was read and can break off."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offsets: list[int] = []
        self.ends_at = len(data)

    @contextmanager
    def open_at(self, offer: Offer, offset: int) -> Iterator[Reader]:
        self.offsets.append(offset)
        yield io.BytesIO(self.data[offset : self.ends_at])


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "home")


def offer(data: bytes, *, stated: Stated | None = None, key: str = "one") -> Offer:
    return Offer("test://source", "model.safetensors", len(data), key, stated)


def nothing(count: int) -> None:
    """Hear of bytes and forget them."""


@pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_bytes_lie_read_only_at_their_dvc_address_with_both_digests(
    store: ObjectStore, data: bytes
) -> None:
    row = receive(store, offer(data), Upstream(data).open_at, nothing)

    path = store.path(hashlib.md5(data).hexdigest())
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o444
    assert (row.sha256, row.md5) == (sha256_bytes(data), hashlib.md5(data).hexdigest())
    assert list(store.incoming.iterdir()) == []


def test_a_large_file_that_broke_off_is_resumed_where_it_broke(store: ObjectStore) -> None:
    upstream = Upstream(LARGE)
    upstream.ends_at = 2 * SMALL_BYTES
    with pytest.raises(TransferCutOff, match=f"{2 * SMALL_BYTES} of {len(LARGE)} bytes came"):
        receive(store, offer(LARGE), upstream.open_at, nothing)
    upstream.ends_at = len(LARGE)
    came: list[int] = []

    row = receive(store, offer(LARGE), upstream.open_at, came.append)

    assert upstream.offsets == [0, 2 * SMALL_BYTES]
    assert row.sha256 == sha256_bytes(LARGE)
    assert sum(came) == len(LARGE)


def test_a_partial_file_that_was_damaged_is_fetched_anew(store: ObjectStore) -> None:
    upstream = Upstream(LARGE)
    upstream.ends_at = 2 * SMALL_BYTES
    wanted = offer(LARGE, stated=Stated("sha256", sha256_bytes(LARGE)))
    with pytest.raises(TransferCutOff):
        receive(store, wanted, upstream.open_at, nothing)
    (partial,) = store.incoming.iterdir()
    partial.write_bytes(b"?" + partial.read_bytes()[1:])
    upstream.ends_at = len(LARGE)

    assert receive(store, wanted, upstream.open_at, nothing).sha256 == sha256_bytes(LARGE)
    assert upstream.offsets == [0, 2 * SMALL_BYTES, 0]


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("algorithm", ["sha256", "md5", "git blob sha1"])
def test_bytes_other_than_stated_are_refused_and_not_kept(
    store: ObjectStore, data: bytes, algorithm: str
) -> None:
    value = "0" * 40
    stated = git_blob_sha1(value, len(data)) if "git" in algorithm else Stated(algorithm, value)

    with pytest.raises(SourceChanged, match=f"test://source model.safetensors.*{algorithm} 000"):
        receive(store, offer(data, stated=stated), Upstream(data).open_at, nothing)
    assert not store.objects.exists()
    assert sum(path.stat().st_size for path in store.incoming.iterdir()) == 0


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_git_blob_id_is_understood(store: ObjectStore, data: bytes) -> None:
    value = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    wanted = offer(data, stated=git_blob_sha1(value, len(data)))

    assert receive(store, wanted, Upstream(data).open_at, nothing).size_bytes == len(data)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_file_that_grew_is_refused(store: ObjectStore, data: bytes) -> None:
    with pytest.raises(SourceChanged, match="more than"):
        receive(store, offer(data), Upstream(data + b"more").open_at, nothing)


def test_a_stated_sha256_is_found_whichever_source_it_came_from(store: ObjectStore) -> None:
    row = receive(store, offer(LARGE, key="there"), Upstream(LARGE).open_at, nothing)
    store.ledger.add([row], [("there", row.sha256)])
    elsewhere = offer(LARGE, stated=Stated("sha256", row.sha256), key="elsewhere")

    assert known(store, [elsewhere, offer(SMALL, key="unknown")]).keys() == {"elsewhere"}


def test_an_object_that_was_replaced_is_not_taken_for_the_one_that_was_hashed(
    store: ObjectStore,
) -> None:
    row = receive(store, offer(LARGE), Upstream(LARGE).open_at, nothing)
    path = store.path(row.md5)
    path.unlink()
    path.write_bytes(LARGE)

    assert store.find([row.sha256]) == {}


def test_a_damaged_object_is_replaced_by_sound_bytes(store: ObjectStore) -> None:
    path = store.path(hashlib.md5(LARGE).hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")

    receive(store, offer(LARGE), Upstream(LARGE).open_at, nothing)

    assert path.read_bytes() == LARGE


def test_an_object_that_dvc_brought_is_kept(store: ObjectStore) -> None:
    path = store.path(hashlib.md5(LARGE).hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(LARGE)
    inode = path.stat().st_ino

    row = receive(store, offer(LARGE), Upstream(LARGE).open_at, nothing)

    assert row.inode == inode
    assert list(store.incoming.iterdir()) == []


def test_two_contents_of_one_md5_are_refused(store: ObjectStore) -> None:
    # Two blocks of Wang and Yu's collision (Eurocrypt 2005): real bytes with one md5.
    one = bytes.fromhex(
        "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89"
        "55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b"
        "d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
        "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
    )
    other = bytearray(one)
    for position in (19, 45, 59, 83, 109, 123):
        other[position] ^= 0x80
    assert hashlib.md5(one).digest() == hashlib.md5(bytes(other)).digest()
    receive(store, offer(one), Upstream(one).open_at, nothing)

    with pytest.raises(AddressCollision, match="taken for the other"):
        receive(store, offer(bytes(other)), Upstream(bytes(other)).open_at, nothing)


def test_two_that_bring_in_one_file_take_turns(store: ObjectStore) -> None:
    upstream = Upstream(LARGE)
    rows = []

    def bring() -> None:
        rows.append(receive(ObjectStore(store.home), offer(LARGE), upstream.open_at, nothing))

    threads = [threading.Thread(target=bring) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert upstream.offsets == [0]
    assert len({row.inode for row in rows}) == 1


def test_a_link_is_the_object_itself(store: ObjectStore, tmp_path: Path) -> None:
    row = receive(store, offer(SMALL), Upstream(SMALL).open_at, nothing)

    store.link(StoredObject(row.sha256, row.md5, row.size_bytes), tmp_path / "linked")

    assert (tmp_path / "linked").stat().st_ino == row.inode


def test_where_no_link_can_be_the_bytes_are_copied(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = receive(store, offer(SMALL), Upstream(SMALL).open_at, nothing)

    def refuse(*_: object) -> None:  # a second file system cannot be mounted here
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    store.link(StoredObject(row.sha256, row.md5, row.size_bytes), tmp_path / "copied")

    assert (tmp_path / "copied").read_bytes() == SMALL
    assert (tmp_path / "copied").stat().st_mode & 0o777 == 0o444


def test_a_lost_ledger_costs_a_second_reading_and_no_wrong_answer(store: ObjectStore) -> None:
    row = receive(store, offer(LARGE), Upstream(LARGE).open_at, nothing)
    (store.home / "downloads/ledger.sqlite").unlink()
    again = ObjectStore(store.home)
    upstream = Upstream(LARGE)

    assert known(again, [offer(LARGE)]) == {}
    assert replace(receive(again, offer(LARGE), upstream.open_at, nothing)) == row
    assert upstream.offsets == [0]


def test_an_object_that_is_found_counts_as_used_now_and_stays_as_hashed(store: ObjectStore) -> None:
    row = receive(store, offer(SMALL), Upstream(SMALL).open_at, nothing)
    store.ledger.add([row])
    path = store.path(row.md5)
    os.utime(path, ns=(0, row.mtime_ns))
    assert row.sha256 in store.find([row.sha256])
    status = path.stat()
    assert status.st_atime_ns > status.st_mtime_ns - 1
    assert status.st_mtime_ns == row.mtime_ns
    assert row.sha256 in store.find([row.sha256])
    path.unlink()
    assert store.find([row.sha256]) == {}
