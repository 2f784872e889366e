"""What taking a job up costs: a finished one, and one that was killed half way.

The engine starts and answers at once, so a restart's whole time is what surrounds it: the run's
process with its imports, the plan, the worker's process, and the rows from the journal. The
finished job's time is put against 10,000 documents at 50 rows a second (200 s), fast for one GPU.

`python -m benchmarks batch.resume` runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.batch_job import make_corpus, make_job, make_model
from benchmarks.measure import Measure
from pipelines.batch.job import BatchJob, Limits
from pipelines.batch.records import ModelOnDisk

DOCUMENTS = 10_000
JOB_ROWS_PER_S = 50.0
_GRAIN_S = (
    2.5  # a corpus younger than the clock's grain is read again: see pipelines.batch.unchanged
)
_RUN = """
import sys
from pipelines.batch.job import BatchJob
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.errors import LimitReached
job, model = BatchJob.model_validate_json(sys.argv[1]), ModelOnDisk.model_validate_json(sys.argv[2])
try:
    manifest = run_batch(job, model, worker_module="benchmarks.batch_resume_worker")
except LimitReached:
    sys.exit(9)
heavy = {"torch", "vllm", "transformers", "tokenizers"} & set(sys.modules)
assert not (sys.argv[3] == "finished" and heavy), heavy
"""


def measure(documents: int = DOCUMENTS) -> list[Measure]:
    """Share of the job's time that resuming it finished takes, and the restart of a stopped one."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as folder:
        corpus = Path(folder, "corpus.jsonl")
        make_corpus(corpus, documents)
        time.sleep(_GRAIN_S)
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        model = make_model(Path(folder, "model"))
        job = make_job(corpus, str(Path(folder, "out")))
        half = Limits(max_error_rate=0, max_tokens=documents * 80 // 2)
        _run(job.model_copy(update={"limits": half}), model, 9)
        restart = _run(job, model, 0)
        finished = _run(job, model, 0, "finished")
        whole = _run(make_job(corpus, str(Path(folder, "whole"))), model, 0)
    print(
        f"  restart {restart:.2f} s, finished {finished:.2f} s, whole job {whole:.2f} s",
        file=sys.stderr,
    )
    return [
        Measure(
            name="batch.resume_finished_share_of_job",
            measured=finished / (documents / JOB_ROWS_PER_S),
            unit="ratio",
            target=0.01,
            better="lower",
        ),
        Measure(
            name="batch.resume_finished_wall", measured=finished, unit="s", target=2, better="lower"
        ),
        Measure(
            name="batch.restart_besides_rows",
            measured=restart - whole / 2,
            unit="s",
            target=2,
            better="lower",
        ),
    ]


def _run(job: BatchJob, model: ModelOnDisk, code: int, expect: str = "") -> float:
    """Seconds that a run takes in a process of its own, which must end with `code`."""
    began = time.monotonic()
    argv = [sys.executable, "-c", _RUN, job.model_dump_json(), model.model_dump_json(), expect]
    done = subprocess.run(argv, stderr=subprocess.PIPE, text=True)
    assert done.returncode == code, done.stderr[-2000:]
    return time.monotonic() - began
