"""The index of jobs: one small file a job in the registry's home, so that none is forgotten.

`stale` finds the outputs of a revoked model in it, and `plan` the jobs that asked something like
it before. An output that was moved or deleted is still in it, and is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from pipelines.batch.layout import JOB, MANIFEST, RECALL
from pipelines.batch.records import JobPlan
from pipelines.batch.store import open_store
from pipelines.canonical import Frozen, sha256_bytes, write_record
from pipelines.errors import StoreFailed, WrongKindOfPath
from pipelines.records import read_record

FOLDER = "batch-index"


class IndexedJob(Frozen):
    """Where a job's rows lie and what makes it the job it is."""

    kind: str = "indexed job"
    output: str
    job_id: str
    name: str
    model: str
    identity: dict[str, str]


class SimilarJob(Frozen):
    """A job over the same corpus, and in what it differs from another."""

    output: str
    name: str
    finished: bool
    differs: tuple[str, ...] = Field(description="parts of the identity; () is the same job")


def add_to_index(home: Path, output: str, plan: JobPlan) -> None:
    """Note a planned job; the same again changes nothing."""
    entry = IndexedJob(
        output=output if "://" in output else str(Path(output).absolute()),
        job_id=plan.job_id,
        name=plan.job.name,
        model=plan.model,
        identity=plan.identity,
    )
    write_record(home / FOLDER / f"{sha256_bytes(entry.output.encode())[:32]}.json", entry)


def indexed(home: Path) -> Iterator[IndexedJob]:
    """Every job in the index, by name of its file."""
    for path in sorted((home / FOLDER).glob("*.json")):
        yield read_record(path, IndexedJob)


def similar_jobs(home: Path, output: str, plan: JobPlan) -> list[SimilarJob]:
    """Other jobs over the same corpus, the most alike first; nothing of theirs is ever reused."""
    found = []
    for entry in indexed(home):
        if entry.identity.get("corpus") != plan.identity["corpus"] or same(entry.output, output):
            continue
        parts = sorted({*entry.identity, *plan.identity})
        differs = tuple(p for p in parts if entry.identity.get(p) != plan.identity.get(p))
        found.append((len(differs), entry, differs))
    found.sort(key=lambda item: (item[0], item[1].output))
    return [
        SimilarJob(output=e.output, name=e.name, finished=_finished(e.output), differs=differs)
        for _, e, differs in found
    ]


def same(one: str, other: str) -> bool:
    """Whether two names mean one output location."""
    if "://" in one or "://" in other:
        return one.rstrip("/") == other.rstrip("/")
    return Path(one).absolute() == Path(other).absolute()


def find_outputs(location: str) -> Iterator[str]:
    """Every output location at or below a folder or an S3 prefix: wherever a job.json lies.

    Raises WrongKindOfPath when a folder is not there, StoreFailed when a bucket cannot be read.
    """
    if "://" not in location and not Path(location).is_dir():
        raise WrongKindOfPath(Path(location), "a folder with outputs of batch jobs")
    base = location.rstrip("/")
    for name in sorted(open_store(location).names()):
        folder, _, file = name.rpartition("/")
        if file == JOB and RECALL.rstrip("/") not in folder.split("/"):
            yield f"{base}/{folder}" if folder else base


def _finished(output: str) -> bool:
    try:
        return open_store(output).exists(MANIFEST)
    except (StoreFailed, WrongKindOfPath):  # gone, or not to be reached from here
        return False
