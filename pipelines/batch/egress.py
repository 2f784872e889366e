"""Egress: an output elsewhere, each object of which is checked again and logged as it leaves.

The log is a file of JSON lines in the machine's home. Each line names the sha256 of the line before
it, so that a line that was changed or taken out shows. What stays on this machine is not logged.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pipelines.batch.destinations import Decision, EgressRules, decide, output_place
from pipelines.batch.job import BatchJob
from pipelines.batch.layout import CANCEL, WORKERS
from pipelines.batch.redaction import Redactor
from pipelines.batch.store import OutputStore, open_store
from pipelines.canonical import Frozen, canonical_json, sha256_bytes
from pipelines.errors import EgressLogBroken, NoSpaceLeft, is_disk_full
from pipelines.file_lock import exclusive

_OF_THE_JOB = (WORKERS, CANCEL)  # objects that say how the job runs, and nothing of documents
_FIRST = "0" * 64  # what the first line names as the line before it


class Sent(Frozen):
    """One line of the log: one object that left, or was about to."""

    at: datetime
    user: str
    host: str
    job_id: str = Field(description="'' for a job that was being planned")
    job: str
    classification: str
    destination: str
    place: str
    object: str
    size_bytes: int
    sha256: str
    redacted: dict[str, int] = Field(description="how often each rule replaced something")
    policy_sha256: str
    previous: str = Field(description="sha256 of the line before, 64 zeros for the first")


def sending_store(job: BatchJob, rules: EgressRules, job_id: str = "") -> OutputStore:
    """The store for a job's output, after a check of the policy; raises DestinationRefused.

    Where the output leaves this machine, each object is checked and logged before it is sent.
    """
    decision = decide(rules.policy, job)
    store = open_store(job.output)
    return LoggedStore(store, job, rules, job_id) if decision.place.leaves else store


def redactor(job: BatchJob, rules: EgressRules) -> Redactor:
    """What the policy wants replaced in the answers of a job before they are committed."""
    decision = decide(rules.policy, job)
    return Redactor(decision.rules, rules.policy.patterns)


class LoggedStore:
    """A store elsewhere: what is written to it is checked, logged, and then sent."""

    def __init__(self, store: OutputStore, job: BatchJob, rules: EgressRules, job_id: str) -> None:
        self._store, self._job, self._rules, self._job_id = store, job, rules, job_id
        self._redacted: dict[str, Counter[str]] = {}

    @property
    def location(self) -> str:
        return self._store.location

    def note(self, name: str, redacted: Counter[str]) -> None:
        """Remember how much was redacted in an object that is about to be created."""
        self._redacted[name] = redacted

    def create(self, name: str, data: bytes) -> bool:
        self._leave(name, data)
        return self._store.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self._leave(name, data)
        self._store.replace(name, data)

    def read(self, name: str) -> bytes | None:
        return self._store.read(name)

    def exists(self, name: str) -> bool:
        return self._store.exists(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        return self._store.names(prefix)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def tidy(self) -> None:
        self._store.tidy()

    def _leave(self, name: str, data: bytes) -> None:
        """Check at the moment of sending: the environment may name another endpoint by now."""
        decision = decide(self._rules.policy, self._job)
        if name.startswith(_OF_THE_JOB):
            return
        append(self._rules.log, self._line(decision, name, data))

    def _line(self, decision: Decision, name: str, data: bytes) -> dict[str, Any]:
        return {
            "at": datetime.now(UTC).isoformat(),
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "job_id": self._job_id,
            "job": self._job.name,
            "classification": self._job.classification,
            "destination": decision.destination,
            "place": str(output_place(self._job.output)),
            "object": name,
            "size_bytes": len(data),
            "sha256": sha256_bytes(data),
            "redacted": dict(sorted(self._redacted.pop(name, Counter()).items())),
            "policy_sha256": self._rules.policy.digest,
        }


def note_redacted(store: OutputStore, name: str, redacted: Counter[str]) -> None:
    """Tell a store that logs how much was redacted in an object that is about to be created."""
    if isinstance(store, LoggedStore):
        store.note(name, redacted)


def append(log: Path, line: dict[str, Any]) -> None:
    """Add a line to the log, on the disk when this returns; writers wait for each other.

    A half line that a killed writer left is cut off first. Raises NoSpaceLeft.
    """
    with exclusive(log.with_suffix(".lock"), "the egress log"):
        try:
            with log.open("a+b") as file:
                previous = _last(file)
                file.write(canonical_json({**line, "previous": previous}) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if is_disk_full(error):
                raise NoSpaceLeft(log) from error
            raise


def read_log(log: Path) -> list[Sent]:
    """Every line, the chain checked; none when nothing left yet. Raises EgressLogBroken."""
    if not log.exists():
        return []
    previous, sent = _FIRST, []
    for number, data in enumerate(log.read_bytes().splitlines(), start=1):
        try:
            line = Sent.model_validate_json(data)
        except ValidationError as error:
            raise EgressLogBroken(log, number, "not a line that this log has") from error
        if line.previous != previous:
            fact = f"it follows {line.previous[:12]}, but the line before it is {previous[:12]}"
            raise EgressLogBroken(log, number, fact)
        sent.append(line)
        previous = sha256_bytes(data)
    return sent


def _last(file: Any) -> str:
    """sha256 of the last whole line, and the file cut after it."""
    size = file.seek(0, os.SEEK_END)
    step, data = 1 << 16, b""
    while size and data.count(b"\n") < 2 and len(data) < size:
        file.seek(max(0, size - len(data) - step))
        data = file.read(size - file.tell())
    whole = data.rpartition(b"\n")[0]
    file.truncate(size - (len(data) - len(whole) - 1 if whole else len(data)))
    file.seek(0, os.SEEK_END)
    return sha256_bytes(whole.rpartition(b"\n")[2]) if whole else _FIRST
