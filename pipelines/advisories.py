"""Known vulnerabilities: an OSV snapshot on this machine, and what it says about an environment.

The snapshot is one zip of the OSV project's layout (PyPI/all.zip: one JSON file an advisory). It is
checked entry by entry when it comes in, kept under HOME/advisories with its sha256 and dates, and
never asked for by any other command: a check works offline. Its age is that of the newest advisory
in it, so that a mirror which stopped following its source grows old here too.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field

from pipelines.canonical import Frozen, sha256_file, write_record
from pipelines.errors import (
    SourceNotFound,
    SourceUnreachable,
    TransferCutOff,
    UnusableSource,
    WrongKindOfPath,
)
from pipelines.osv import LEVELS, Match, matches
from pipelines.records import read_record
from pipelines.verification.policy import AcceptedAdvisory, AdvisoryPolicy
from pipelines.verification.waivers import today

FOLDER, SNAPSHOT, ARCHIVE = "advisories", "snapshot.json", "osv-{}.zip"
MAX_ENTRY_BYTES = 32 * 1024 * 1024
MAX_ENTRIES = 1_000_000
_TIMEOUT_S = 60
_BLOCK_BYTES = 1024 * 1024
_ZIP = "Fetch it again from the mirror; it is the zip that the OSV project writes (PyPI/all.zip)."
_UPDATE = "Run `weighbridge advisories update FILE-OR-URL`."


class Snapshot(Frozen):
    """What is known about the snapshot that lies here."""

    kind: Literal["advisories"] = "advisories"
    source: str = Field(description="file name or address, without keys")
    sha256: str
    size_bytes: int
    advisories: int
    newest: datetime = Field(description="when the newest advisory in it was changed")
    taken_at: datetime

    def age_days(self, now: datetime) -> float:
        """Days since its newest advisory, or since it was taken where that is earlier."""
        return (now - min(self.newest, self.taken_at)).total_seconds() / 86_400


class Examined(Frozen):
    """What a check found; `problems` are why it cannot be relied on."""

    passed: bool
    snapshot: Snapshot | None
    age_days: float | None
    compared: tuple[str, ...] = Field(description="lock files, each with its number of packages")
    matches: tuple[Match, ...]
    problems: tuple[str, ...]
    accepted: tuple[str, ...] = Field(default=(), description="whom the policy has answer for what")
    notes: tuple[str, ...] = ()


def update(source: str, home: Path) -> Snapshot:
    """Take a snapshot from a file or a mirror (http or https) into `home`, in one step.

    Raises WrongKindOfPath, SourceNotFound, SourceUnreachable or TransferCutOff when there is
    nothing to take, and UnusableSource naming the entry that is not an advisory; then the snapshot
    that was there stays.
    """
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as scratch:
        incoming = Path(scratch) / "osv.zip"
        named = _fetch(source, incoming)
        count, newest = _examine(incoming, named)
        snapshot = Snapshot(
            source=named,
            sha256=sha256_file(incoming),
            size_bytes=incoming.stat().st_size,
            advisories=count,
            newest=newest,
            taken_at=datetime.now(UTC).replace(microsecond=0),
        )
        incoming.replace(folder / ARCHIVE.format(snapshot.sha256))
    write_record(folder / SNAPSHOT, snapshot)
    for old in folder.glob(ARCHIVE.format("*")):
        if old.name != ARCHIVE.format(snapshot.sha256):
            old.unlink()
    return snapshot


def load_snapshot(home: Path) -> Snapshot | None:
    """The snapshot that lies in `home`, or None; raises ConfigError when its record is broken."""
    path = home / FOLDER / SNAPSHOT
    return read_record(path, Snapshot) if path.is_file() else None


def examine(
    locks: Mapping[str, Mapping[str, Sequence[str]]],
    home: Path,
    policy: AdvisoryPolicy,
    now: datetime | None = None,
) -> Examined:
    """Compare lock files (name to PEP 503 package to versions) with the snapshot.

    Where the policy requires a snapshot, a missing, altered or stale one does not pass.
    """
    snapshot = load_snapshot(home)
    compared = tuple(f"{name}: {len(packages)} packages" for name, packages in locks.items())
    if snapshot is None:
        missing = (f"there is no snapshot of advisories. {_UPDATE}",)
        return Examined(
            passed=not policy.required,
            snapshot=None,
            age_days=None,
            compared=compared,
            matches=(),
            problems=missing,
        )
    archive = home / FOLDER / ARCHIVE.format(snapshot.sha256)
    if not archive.is_file() or sha256_file(archive) != snapshot.sha256:
        fact = "it is not the snapshot that was taken in"
        raise UnusableSource(str(archive), fact, _UPDATE)
    packages: dict[str, list[str]] = {}
    for lock in locks.values():
        for name, versions in lock.items():
            known = packages.setdefault(name, [])
            known += [version for version in versions if version not in known]
    found = tuple(matches(_advisories(archive, snapshot.source), packages))
    age = snapshot.age_days(now or datetime.now(UTC))
    problems = []
    if age > policy.max_age_days:
        fact = f"the snapshot is {age:.0f} days old, the policy admits {policy.max_age_days}"
        problems.append(f"{fact}. {_UPDATE}")
    day = (now or datetime.now(UTC)).date()
    deciding = [match for match in found if decides(match, policy, day)]
    answers = [(match, accepted(match, policy)) for match in found]
    return Examined(
        passed=not deciding and not (policy.required and problems),
        snapshot=snapshot,
        age_days=round(age, 1),
        compared=compared,
        matches=found,
        problems=tuple(problems),
        accepted=tuple(_answered(match, entry, day) for match, entry in answers if entry),
    )


def accepted(match: Match, policy: AdvisoryPolicy) -> AcceptedAdvisory | None:
    """The entry that answers for this match, the one that ends last, expired or not."""
    fitting = [
        entry
        for entry in policy.accepted
        if entry.id in match.ids
        and (entry.package, entry.version) == (match.package, match.version)
    ]
    return max(fitting, key=lambda entry: entry.expires, default=None)


def decides(match: Match, policy: AdvisoryPolicy, day: date | None = None) -> bool:
    """Whether the policy refuses for this match on `day` (by default today, in UTC).

    An unknown severity counts as any; an entry of `accepted` answers until its last day.
    """
    if policy.fail_on == "none":
        return False
    entry = accepted(match, policy)
    if entry is not None and entry.expires >= (day or today()):
        return False
    return LEVELS.index(match.severity) >= LEVELS.index(policy.fail_on)


def _answered(match: Match, entry: AcceptedAdvisory, day: date) -> str:
    what = f"{entry.id} in {match.package} {match.version} was accepted by {entry.approver}"
    if entry.expires < day:
        return f"{what} until {entry.expires}, which is over. Have it decided again, or update it"
    return f"{what} until {entry.expires}: {entry.reason}"


def _fetch(source: str, target: Path) -> str:
    """Copy or download; returns the source as it may be shown."""
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https"):
        path = Path(source)
        if not path.is_file():
            raise WrongKindOfPath(path, "a zip of advisories, or an http(s) address of one")
        shutil.copyfile(path, target)
        return path.name
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    _download(source, shown, target)
    return shown


def _download(address: str, shown: str, target: Path) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(address, timeout=_TIMEOUT_S) as answer, target.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or -1)
            shutil.copyfileobj(answer, file, _BLOCK_BYTES)
    except HTTPError as error:
        remedy = "Check the address of the mirror."
        raise SourceNotFound(shown, f"the mirror answers {error.code}", remedy) from error
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise SourceUnreachable(shown, str(reason), "Check the address and the proxy.") from error
    if size not in (-1, target.stat().st_size):
        raise TransferCutOff(shown, target.stat().st_size, size)


def _examine(archive: Path, named: str) -> tuple[int, datetime]:
    """Read every advisory once: how many there are, and when the newest was changed."""
    count, newest = 0, datetime.min.replace(tzinfo=UTC)
    for advisory in _advisories(archive, named):
        count += 1
        newest = max(newest, _changed(advisory, named))
    if not count:
        raise UnusableSource(named, "there is no advisory in it", _ZIP)
    return count, newest


def _changed(advisory: Mapping[str, Any], named: str) -> datetime:
    text = advisory.get("modified") or advisory.get("published")
    try:
        changed = datetime.fromisoformat(str(text))
    except ValueError as error:
        fact = f"the advisory {advisory['id']} does not say when it was changed"
        raise UnusableSource(named, fact, _ZIP) from error
    return changed if changed.tzinfo else changed.replace(tzinfo=UTC)


def _advisories(archive: Path, named: str) -> Iterator[dict[str, Any]]:
    """Every advisory of a zip; raises UnusableSource with the entry that is not one."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            if len(entries) > MAX_ENTRIES:
                raise UnusableSource(named, f"it has {len(entries)} entries", _ZIP)
            for entry in entries:
                yield _advisory(opened, entry, named)
    except zipfile.BadZipFile as error:
        raise UnusableSource(named, f"it is not a whole zip ({error})", _ZIP) from error


def _advisory(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, named: str) -> dict[str, Any]:
    if not entry.filename.endswith(".json") or entry.file_size > MAX_ENTRY_BYTES:
        fact = f"the entry {entry.filename!a} of {entry.file_size} bytes is no advisory"
        raise UnusableSource(named, fact, _ZIP)
    try:
        with opened.open(entry) as file:
            return _parse(file, entry.filename, named)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        fact = f"the entry {entry.filename!a} cannot be read ({error})"  # damaged or encrypted
        raise UnusableSource(named, fact, _ZIP) from error


def _parse(file: IO[bytes], name: str, named: str) -> dict[str, Any]:
    try:
        advisory = json.loads(file.read(MAX_ENTRY_BYTES + 1).decode())
    except (ValueError, RecursionError) as error:
        raise UnusableSource(named, f"the entry {name!a} is not JSON ({error})", _ZIP) from error
    if not isinstance(advisory, dict) or not isinstance(advisory.get("id"), str):
        raise UnusableSource(named, f"the entry {name!a} has no id", _ZIP)
    return advisory
