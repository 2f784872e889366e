"""Text of PDF and Word documents, which are untrusted programs of a sort, read in another process.

The process has no network, a bound on its memory and a time for each document. A document that
hangs or explodes ends it and becomes an error row; the next document gets a new process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from pipelines.batch.documents.extraction_child import LENGTH, read_message
from pipelines.batch.text import DocumentError
from pipelines.confinement import start_confined

CHILD = "pipelines.batch.documents.extraction_child"
_MEMORY_BYTES = 2 << 30  # of address space; an honest document of 5 MB takes a tenth of it
_PROJECT = Path(__file__).resolve().parents[3]
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); import runpy; runpy.run_module({!r}, {})"


class Extractor:
    """Reads one document at a time; its process is started by the first."""

    def __init__(self, timeout_s: float, max_bytes: int) -> None:
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def text(self, suffix: str, data: bytes) -> str:
        """The text of a .pdf or .docx file; DocumentError when there is none."""
        with self._lock:
            reply = self._ask(suffix.encode() + b"\n" + data)
        found = json.loads(reply)
        if "error" in found:
            raise DocumentError(found["error"], found["fact"])
        return str(found["text"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):  # it may hold what nobody read
                    cast(BinaryIO, pipe).close()
        if self._home is not None:
            self._home.cleanup()
            self._home = None

    def _ask(self, request: bytes) -> bytes:
        process = self._started()
        late = threading.Event()

        def end() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(self._timeout_s, end)
        timer.start()
        reply = None
        try:
            with suppress(BrokenPipeError):  # it died: told below
                requests = cast(BinaryIO, process.stdin)
                requests.write(LENGTH.pack(len(request)) + request)
                requests.flush()
                reply = read_message(cast(BinaryIO, process.stdout))
        finally:
            timer.cancel()
            timer.join()
        if reply is None:
            self.close()
            fact = "ended the process that read it, as more memory than a document may take does"
            if late.is_set():
                fact = f"not read within {self._timeout_s:g} s"
            raise DocumentError("extraction_failed", fact)
        return reply

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._home = tempfile.TemporaryDirectory(prefix="weighbridge-")
            start = _START.format(CHILD, "run_name='__main__'")
            argv = [sys.executable, "-c", start, str(_PROJECT), str(self._max_bytes)]
            self._process = start_confined(argv, _MEMORY_BYTES, Path(self._home.name))
        return self._process
