"""Child processes that die with their parent, so that memory and accelerators are given back.

Linux keeps a child alive when its parent is killed. A stage that outlives the process that started
it could overwrite outputs after a new run has finished, so every child asks the kernel for SIGKILL
at its parent's death (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.errors import CommandFailed, NoSpaceLeft
from pipelines.progress import PROGRESS_VARIABLE, parse, report

_PR_SET_PDEATHSIG = 1
_NO_SPACE_TEXT = "No space left on device"
_CHILD = {
    PROGRESS_VARIABLE: "json",
    # Threads that wait for each other sleep instead of spinning: on a machine whose cores are busy,
    # spinning made training ten times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}
_libc = ctypes.CDLL(None, use_errno=True)

OnLine = Callable[[str], None]


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent dies.

    `parent` is the parent's process id as the parent knew it; if it has died in between, this
    process ends at once.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: OnLine | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it printed (both streams in `stdout`).

    `on_line` sees each line as it comes. Raises CommandFailed on a non-zero exit when `check`,
    and NoSpaceLeft when the program says that the disk is full.
    """
    parent = os.getpid()
    process = subprocess.Popen(
        list(argv),
        cwd=cwd,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=lambda: die_with_parent(parent),
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            if on_line is not None:
                on_line(line.rstrip("\n"))
            if parse(line) is None:
                lines.append(line)
        returncode = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    output = "".join(lines)
    if returncode and check:
        if _NO_SPACE_TEXT in output:
            raise NoSpaceLeft(cwd or Path.cwd())
        raise CommandFailed(list(argv), returncode, output)
    return subprocess.CompletedProcess(list(argv), returncode, output, "")


def run_module(
    module: str,
    request: BaseModel | Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    on_line: OnLine | None = None,
) -> Any:
    """Run `python -m module REQUEST RESPONSE`; return the JSON that it wrote.

    The child reads its request from the first file with `serve` and writes its response to the
    second, so that whatever libraries print cannot garble it. `env` is added to this process's.
    """
    body = request.model_dump_json() if isinstance(request, BaseModel) else json.dumps(request)
    with tempfile.TemporaryDirectory(prefix="weighbridge-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "response.json")
        asked.write_text(body, encoding="utf-8")
        run(
            [sys.executable, "-m", module, str(asked), str(answered)],
            env={**os.environ, **_CHILD, **(env or {})},
            on_line=on_line or forward_progress,
        )
        return json.loads(answered.read_text(encoding="utf-8"))


def forward_progress(line: str) -> None:
    """Pass a child's progress lines on to our own standard error, and drop its chatter."""
    if (fields := parse(line)) is not None:
        report(
            float(fields["done"]), float(fields["total"]), str(fields["unit"]), str(fields["what"])
        )


def serve(answer: Callable[[bytes], Any]) -> None:
    """The `main` of a child started by `run_module`: request bytes in, JSON-able value out."""
    die_with_parent()
    asked, answered = Path(sys.argv[1]), Path(sys.argv[2])
    answered.write_text(json.dumps(answer(asked.read_bytes())), encoding="utf-8")
