"""Programs that read untrusted files: run without a network, within limits, and never forgotten.

The child gets a network of its own with nothing in it (Linux namespaces; no privilege is needed
where the kernel admits them). Where it does not, as in some containers, what is left is an
environment whose proxies point to a closed port, which honest programs obey. The child's
environment holds nothing of ours: no keys, no tokens, and a home folder that is thrown away.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.subprocesses import die_with_parent

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CLOSED_PORT = "http://127.0.0.1:9"
MAX_OUTPUT_BYTES = 256 * 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)

_QUIET = {
    "LANG": "C.UTF-8",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "NO_COLOR": "1",
    "CI": "1",
    # Telemetry and downloads of the scanners and of the libraries that they load.
    "DO_NOT_TRACK": "1",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "AISBOM_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    **{
        name: _CLOSED_PORT
        for scheme in ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
        for name in (scheme, scheme.upper())
    },
}


@dataclass(frozen=True)
class Limits:
    """How long a program may run, how much address space it may have, and the largest file."""

    timeout_s: float
    memory_bytes: int
    file_bytes: int = MAX_OUTPUT_BYTES


@dataclass(frozen=True)
class Finished:
    """How a program ended; at most MAX_OUTPUT_BYTES of what it printed."""

    returncode: int
    stdout: bytes
    stderr: bytes
    timed_out: bool


def run_confined(
    argv: Sequence[str], limits: Limits, env: Mapping[str, str] | None = None
) -> Finished:
    """Run a program in an empty folder of its own until it ends or its time is over.

    A program that runs out of memory or writes a larger file than it may ends with an error.
    Raises FileNotFoundError and PermissionError when it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="weighbridge-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        out, err = Path(folder) / "stdout", Path(folder) / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                list(argv),
                cwd=home,
                env={**_environment(home), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=_confinement(limits),
            )
            timed_out = _wait(process, limits.timeout_s)
        return Finished(process.returncode, out.read_bytes(), err.read_bytes(), timed_out)


def start_confined(argv: Sequence[str], memory_bytes: int, home: Path) -> subprocess.Popen[bytes]:
    """Start a program as `run_confined` does, with pipes to its standard input and output.

    `home` is an empty folder that the caller removes; what the program complains of is dropped.
    The caller sees to it that it ends: `os.killpg` of its process id ends all of it.
    """
    return subprocess.Popen(
        list(argv),
        cwd=home,
        env=_environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_confinement(Limits(0.0, memory_bytes)),
    )


def _environment(home: Path) -> dict[str, str]:
    folders = {"HOME": str(home), "TMPDIR": str(home), "PATH": os.environ.get("PATH", "")}
    return {**_QUIET, **folders}


def _confinement(limits: Limits) -> Callable[[], None]:
    """What the child does to itself before its program starts."""
    parent = os.getpid()

    def confine() -> None:
        _leave_network()
        die_with_parent(parent)  # after the namespaces: the kernel forgets it when they change
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))

    return confine


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for a program and end its whole session; True when it had to be ended."""
    try:
        process.wait(timeout_s)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _leave_network() -> None:
    """Enter a network namespace without interfaces, as the same user; no-op where forbidden."""
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        Path("/proc/self", name).write_text(text, encoding="ascii")
