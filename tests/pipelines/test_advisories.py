"""Snapshots of advisories: taken in whole or not at all, of known age, and failing closed."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from osv_zip import advisory, write_zip

from pipelines.advisories import Examined, examine, load_snapshot, update
from pipelines.canonical import sha256_file
from pipelines.errors import (
    ConfigError,
    SourceNotFound,
    SourceUnreachable,
    TransferCutOff,
    UnusableSource,
    WrongKindOfPath,
)
from pipelines.lock_file import read_lock
from pipelines.verification.policy import AdvisoryPolicy

NOW = datetime(2026, 11, 22, tzinfo=UTC)
LOCKS = {"cpu.txt": {"demo": ("1.0",), "other": ("2.0",)}}
HIGH = advisory("GHSA-1", versions=("1.0",), database_specific={"severity": "HIGH"})
LOW = advisory("GHSA-2", versions=("1.0",), database_specific={"severity": "LOW"})


@contextmanager
def mirror(folder: Path, cut_off: int = 0) -> Iterator[str]:
    """A real web server of a folder; with `cut_off` it promises more bytes than it sends."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def send_header(self, keyword: str, value: str) -> None:
            if keyword == "Content-Length":
                value = str(int(value) + cut_off)
            super().send_header(keyword, value)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_file_is_taken_in_with_its_digest_its_dates_and_its_count(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "all.zip", HIGH, LOW)
    taken = update(str(source), tmp_path / "home")
    assert taken == load_snapshot(tmp_path / "home")
    assert (taken.source, taken.sha256, taken.advisories) == ("all.zip", sha256_file(source), 2)
    assert taken.newest == datetime(2026, 11, 20, 10, tzinfo=UTC)
    again = update(str(write_zip(tmp_path / "new.zip", HIGH)), tmp_path / "home")
    kept = sorted(path.name for path in (tmp_path / "home" / "advisories").iterdir())
    assert kept == [f"osv-{again.sha256}.zip", "snapshot.json"]


def test_a_mirror_is_asked_and_keys_in_its_address_are_not_kept(tmp_path: Path) -> None:
    write_zip(tmp_path / "all.zip", HIGH)
    with mirror(tmp_path) as address:
        taken = update(f"{address}/all.zip?token=secret", tmp_path / "home")
        assert taken.source == f"{address}/all.zip"
        with pytest.raises(SourceNotFound, match="404"):
            update(f"{address}/absent.zip", tmp_path / "home")
    with pytest.raises(SourceUnreachable):
        update(f"{address}/all.zip", tmp_path / "home")


def test_a_download_that_breaks_off_leaves_the_old_snapshot(tmp_path: Path) -> None:
    old = update(str(write_zip(tmp_path / "all.zip", HIGH)), tmp_path / "home")
    write_zip(tmp_path / "all.zip", LOW)
    with mirror(tmp_path, cut_off=100) as address, pytest.raises(TransferCutOff):
        update(f"{address}/all.zip", tmp_path / "home")
    assert load_snapshot(tmp_path / "home") == old


def bad_zip(path: Path, name: str, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("GHSA-1.json", '{"id": "GHSA-1", "modified": "2026-01-01T00:00:00Z"}')
        archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("bad.json", b"{", "'bad.json' is not JSON"),
        ("bad.json", b"[]", "'bad.json' has no id"),
        ("bad.json", b'{"id": 1}', "'bad.json' has no id"),
        ("bad.json", b"[" * 100_000, "'bad.json' is not JSON"),
        ("bad.json", b"\xff", "'bad.json' is not JSON"),
        ("run.sh", b"echo", "'run.sh' of 4 bytes is no advisory"),
        ("bad.json", b'{"id": "X-1"}', "X-1 does not say when"),
    ],
)
def test_a_malformed_zip_is_refused_with_the_entry(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    with pytest.raises(UnusableSource, match=words):
        update(str(bad_zip(tmp_path / "all.zip", name, data)), tmp_path / "home")
    assert load_snapshot(tmp_path / "home") is None
    assert list((tmp_path / "home" / "advisories").iterdir()) == []


def test_what_is_no_zip_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(UnusableSource, match="not a whole zip"):
        update(str(tmp_path / "a.zip"), tmp_path)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(UnusableSource, match="no advisory"):
        update(str(tmp_path / "empty.zip"), tmp_path)
    damaged = write_zip(tmp_path / "damaged.zip", HIGH)
    data = bytearray(damaged.read_bytes())
    data[45] ^= 0xFF
    damaged.write_bytes(data)
    with pytest.raises(UnusableSource, match="damaged"):
        update(str(damaged), tmp_path)
    with pytest.raises(WrongKindOfPath):
        update(str(tmp_path / "absent.zip"), tmp_path)


def test_findings_refuse_from_the_policys_severity_on(tmp_path: Path) -> None:
    update(str(write_zip(tmp_path / "all.zip", HIGH, LOW)), tmp_path)
    for fail_on, passed in (("critical", True), ("high", False), ("low", False), ("none", True)):
        policy = AdvisoryPolicy.model_validate({"fail_on": fail_on})
        examined = examine(LOCKS, tmp_path, policy, NOW)
        assert examined.passed is passed
        assert [match.ids[0] for match in examined.matches] == ["GHSA-1", "GHSA-2"]
    assert examined.compared == ("cpu.txt: 2 packages",)


def test_an_accepted_advisory_passes_until_its_last_day_and_for_its_version(
    tmp_path: Path,
) -> None:
    update(str(write_zip(tmp_path / "all.zip", HIGH, LOW)), tmp_path)
    entry = {
        "id": "GHSA-1", "package": "demo", "version": "1.0", "reason": "the code is not reached",
        "approver": "Jane Doe", "expires": NOW.date().isoformat(),
    }  # fmt: skip

    def asked(later: int = 0, **changes: str) -> Examined:
        policy = AdvisoryPolicy.model_validate({"accepted": [{**entry, **changes}]})
        return examine(LOCKS, tmp_path, policy, NOW + timedelta(days=later))

    assert asked().passed
    assert "accepted by Jane Doe" in asked().accepted[0]
    assert not asked(later=1).passed
    assert "which is over" in asked(later=1).accepted[0]
    assert not asked(version="1.1").passed
    assert not asked(id="GHSA-2").passed


def test_an_unknown_severity_refuses_at_any_threshold(tmp_path: Path) -> None:
    update(str(write_zip(tmp_path / "all.zip", advisory("GHSA-3", versions=("1.0",)))), tmp_path)
    assert not examine(LOCKS, tmp_path, AdvisoryPolicy(fail_on="critical"), NOW).passed


def test_a_missing_snapshot_passes_only_where_none_is_required(tmp_path: Path) -> None:
    for required in (False, True):
        examined = examine(LOCKS, tmp_path, AdvisoryPolicy(required=required), NOW)
        assert examined.passed is not required
        assert "there is no snapshot" in examined.problems[0]


def test_age_is_that_of_the_newest_advisory_and_a_stale_snapshot_fails_closed(
    tmp_path: Path,
) -> None:
    update(str(write_zip(tmp_path / "all.zip", LOW)), tmp_path)
    policy = AdvisoryPolicy(required=True, max_age_days=30)
    assert examine(LOCKS, tmp_path, policy, NOW).age_days == 1.6
    late = examine(LOCKS, tmp_path, policy, NOW + timedelta(days=40))
    assert not late.passed
    assert "42 days old" in late.problems[0]
    loose = AdvisoryPolicy(max_age_days=30)
    assert examine(LOCKS, tmp_path, loose, NOW + timedelta(days=40)).passed


def test_an_altered_snapshot_is_refused(tmp_path: Path) -> None:
    taken = update(str(write_zip(tmp_path / "all.zip", HIGH)), tmp_path)
    write_zip(tmp_path / "advisories" / f"osv-{taken.sha256}.zip", LOW)
    with pytest.raises(UnusableSource, match="not the snapshot"):
        examine(LOCKS, tmp_path, AdvisoryPolicy(), NOW)


def test_a_lock_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(
        "# made by uv\n--no-binary :all:\nDemo_Pkg[extra]==1.0 \\\n    --hash=sha256:00\n"
        "    # via x\ntorch==2.1+cpu ; sys_platform == 'linux'\n"
        "torch==2.0 ; sys_platform != 'linux'\n"
    )
    assert read_lock(path) == {"demo-pkg": ("1.0",), "torch": ("2.1+cpu", "2.0")}


@pytest.mark.parametrize(
    "text", ["demo>=1.0\n", "demo @ https://example.org/x.whl\n", "", "-e .\n"]
)
def test_a_lock_that_pins_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match="pins"):
        read_lock(path)


def test_this_installations_locks_can_be_read() -> None:
    folder = Path(__file__).parents[2] / "requirements"
    for name in ("cpu.txt", "gpu.txt"):
        assert "transformers" in read_lock(folder / name)
