"""Parquet, read by one thread.

Arrow's pool of threads now and then aborts a process that has read with it and then ends: the work
is done, and the exit code is 134 (apache/arrow#34314, #50482; here about one of ten runs). Our
objects are small, so nothing is lost by one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(
    source: bytes | Path, columns: Sequence[str] | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """A whole object, or a file, as a table; raises pa.ArrowException for what is no Parquet."""
    reader = pa.BufferReader(source) if isinstance(source, bytes) else source
    names = None if columns is None else list(columns)
    return pq.read_table(reader, columns=names, schema=schema, use_threads=False)
