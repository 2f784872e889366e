"""Names of what an output location holds."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipelines.batch.job import is_s3

JOB = "job.json"
MANIFEST = "manifest.json"
REPORT = "report.md"
PAGE = "report.html"
RUN = "run.json"
SHARDS = "shards/"
PLANS = "plan/"
JOURNAL = "journal/"
CANCEL = "cancel.json"
WORKERS = "workers/"
RECALL = "recall/"
SUPERSEDED = "superseded/"


def shard_name(index: int) -> str:
    """The object with a shard's committed rows."""
    return f"{SHARDS}shard-{index:06}.parquet"


def plan_name(job_id: str, index: int) -> str:
    """The object that lists a shard's rows; under the job's id, so that planners cannot mix."""
    return f"{PLANS}{job_id[:16]}/shard-{index:06}.parquet"


def journal_folder(output: str, job_id: str) -> Path:
    """Where workers keep rows that are not committed yet: in the output folder, under the job's id.

    For an output on S3 that is a folder of the user's cache on the worker's own machine.
    """
    if not is_s3(output):
        return Path(output, JOURNAL, job_id[:16])
    return local_state() / "journal" / job_id[:16]


def local_state() -> Path:
    """Where this machine keeps what belongs to no output: a folder of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or (
        Path.home() / ".cache" if Path.home().is_dir() else tempfile.gettempdir()
    )
    return Path(cache, "weighbridge")
