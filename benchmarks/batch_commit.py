"""What committing costs: 100,000 rows in shards of 1,000, to files and to S3 (SeaweedFS).

Each side has the same rows in memory. The job's side journals every row, writes each shard as
Parquet and commits it by conditional create, through the same `OpenShard` that a worker uses. The
plain side builds the same Parquet files with pyarrow and writes them (files: write; S3: put_object)
without journal, fsync or condition. The share is of a job at 50 rows a second, which is fast for
one GPU: 100,000 rows are 2,000 s there.

`python -m benchmarks batch.commit` runs it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.batch_job import SCHEMA, make_corpus, make_job, make_model
from benchmarks.measure import Measure
from pipelines.batch.destinations import EgressRules
from pipelines.batch.egress import redactor
from pipelines.batch.layout import PLANS, shard_name
from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.plan import plan
from pipelines.batch.records import JobPlan
from pipelines.batch.rows import PlannedRow, Row, answered_parquet
from pipelines.batch.shard import OpenShard, read_plan
from pipelines.batch.store import OutputStore, open_store

ROWS = 100_000
JOB_ROWS_PER_S = 50.0


def measure(rows: int = ROWS) -> list[Measure]:
    """Share of a job's time that commits take, and their time over that of plain writing."""
    measures = []
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as folder:
        here = Path(folder)
        make_corpus(here / "corpus.jsonl", rows)
        job = make_job(here / "corpus.jsonl", str(here / "out"))
        planned, files = plan(job, make_model(here / "model")), open_store(job.output)
        measures += _compare("files", planned, files, here)
        with _s3(here) as output:
            store = open_store(output)
            for name in list(files.names(PLANS)):
                store.replace(name, files.read(name) or b"")
            measures += _compare("s3", planned, store, here)
    return measures


def _compare(kind: str, planned: JobPlan, store: OutputStore, folder: Path) -> list[Measure]:
    plain = _timed(lambda: _plain(planned, store, folder / "plain"))
    ours = _timed(lambda: _commit(planned, store, folder / f"journal-{kind}"))
    for side, (wall, cpu) in {"plain": plain, "commit": ours}.items():
        print(f"  {kind} {side}: {wall:.1f} s wall, {cpu:.1f} s CPU", file=sys.stderr)
    return [
        Measure(
            name=f"batch.commit_{kind}_share_of_job",
            measured=ours[0] / (planned.rows / JOB_ROWS_PER_S),
            unit="ratio",
            target=0.01,
            better="lower",
        ),
        Measure(
            name=f"batch.commit_{kind}_over_plain_cpu",
            measured=ours[1] / plain[1],
            unit="ratio",
            target=3.0,
            better="lower",
        ),
    ]


def _commit(planned: JobPlan, store: OutputStore, journal: Path) -> None:
    """As a worker does: every row into the journal, every shard under its final name."""
    schema, hide = OutputSchema(SCHEMA), redactor(planned.job, EgressRules())
    for index in range(len(planned.shards)):
        shard = OpenShard(planned, index, store, journal)
        for row in shard.pending():
            shard.add(_answer(row))
        assert shard.commit(schema, hide)


def _plain(planned: JobPlan, store: OutputStore, folder: Path) -> None:
    """The same Parquet, written as a script would."""
    schema = OutputSchema(SCHEMA)
    for index in range(len(planned.shards)):
        rows = [_answer(row) for row in read_plan(planned, index, store)]
        data = answered_parquet(rows, planned, schema)
        if store.location.startswith("s3://"):
            store.replace(f"plain/{shard_name(index)}", data)
        else:
            path = folder / shard_name(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _answer(planned: PlannedRow) -> Row:
    text = f'{{"label":"red","number":{planned.row}}}'
    return Row(
        row=planned.row,
        document_id=planned.document_id,
        document_sha256=planned.document_sha256,
        chunk=planned.chunk,
        output=text,
        raw_text=text,
        finish_reason="stop",
        attempts=1,
        prompt_tokens=planned.prompt_tokens,
        completion_tokens=16,
        engine="instant 1",
    )


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - wall, time.process_time() - cpu


@contextmanager
def _s3(folder: Path) -> Iterator[str]:
    """A prefix on a SeaweedFS of our own, reached as users reach theirs."""
    from tests.s3_server import running_s3_server

    (folder / "weed").mkdir()
    with running_s3_server(folder / "weed") as server:
        before = dict(os.environ)
        os.environ.update(server.environ(), XDG_CACHE_HOME=str(folder / "cache"))
        try:
            yield f"s3://{server.bucket()}/out"
        finally:
            os.environ.clear()
            os.environ.update(before)
