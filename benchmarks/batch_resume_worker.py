"""A worker whose engine answers at once; `batch_resume` starts it as `run` starts vLLM's."""

from __future__ import annotations

from benchmarks.batch_job import make_engine
from pipelines.batch.worker import answer
from pipelines.subprocesses import serve

if __name__ == "__main__":
    serve(lambda data: answer(data, make_engine))
