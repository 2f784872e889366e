from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.errors import CommandFailed, NoSpaceLeft
from pipelines.progress import parse
from pipelines.subprocesses import run

PARENT = """
import sys
from pipelines.subprocesses import run
child = (
    "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); "
    "time.sleep(60)"
)
run([sys.executable, "-c", child, sys.argv[1]])
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(noted)])
    while not (noted.exists() and noted.read_text().strip()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = int(noted.read_text())
    assert alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(200):
        if not alive(child):
            return
        time.sleep(0.05)
    pytest.fail("the child lives on")


def test_a_failed_program_is_shown_with_the_end_of_its_output() -> None:
    argv = [sys.executable, "-c", "print('why'); raise SystemExit(4)"]
    with pytest.raises(CommandFailed, match=r"ended with 4:\nwhy"):
        run(argv)


def test_a_full_disk_in_a_program_is_told_as_such(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import os; os.write(os.open('/dev/full', os.O_WRONLY), b'x')"]
    with pytest.raises(NoSpaceLeft, match="Free some"):
        run(argv, cwd=tmp_path)


def test_progress_lines_are_read_back_and_kept_out_of_the_output() -> None:
    lines: list[str] = []
    code = "from pipelines.progress import report; report(1, 2, 'items', 'work'); print('said')"
    environ = {**os.environ, "WEIGHBRIDGE_PROGRESS": "json"}
    done = run([sys.executable, "-c", code], env=environ, on_line=lines.append)
    assert done.stdout == "said\n"
    fields = [parse(line) for line in lines if parse(line)]
    assert fields == [{"what": "work", "done": 1, "total": 2, "unit": "items"}]
