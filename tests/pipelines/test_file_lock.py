from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.file_lock import exclusive

HOLDER = """
import sys
from pathlib import Path
from pipelines.file_lock import exclusive
with exclusive(Path(sys.argv[1]), "a test"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def wait_for(path: Path) -> tuple[threading.Thread, threading.Event]:
    """A thread that takes the lock, and the event that says that it has it."""
    entered = threading.Event()

    def take() -> None:
        with exclusive(path, "the model"):
            entered.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread, entered


def test_the_second_waits_says_so_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    holder = hold(tmp_path / "lock")
    thread, entered = wait_for(tmp_path / "lock")
    assert not entered.wait(0.5)
    assert "waiting for another process: the model" in capfd.readouterr().err

    holder.communicate()
    thread.join(30)

    assert entered.is_set()


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()

    thread, entered = wait_for(tmp_path / "lock")
    thread.join(30)

    assert entered.is_set()
