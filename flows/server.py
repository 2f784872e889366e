"""A local Prefect server and worker as child processes, apart from any other Prefect installation.

Prefect reads its settings from PREFECT_* variables and from a profile in the user's home. A server
for the demo, for tests or for `weighbridge up` has its own PREFECT_HOME and sees none of either, so
that trying Weighbridge never touches a company's server. Both processes die with their parent.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipelines.errors import ServerUnreachable
from pipelines.subprocesses import die_with_parent

READY_TIMEOUT_S = 300.0  # a first start creates the database; slow disks have been seen at 160 s
STOP_TIMEOUT_S = 20.0
HEARTBEAT_S = 30  # the smallest that Prefect admits; the zombie automation waits 2.5 of them
_POLL_S = 0.25
_DRAIN_TIMEOUT_S = 10.0

_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
    # A flow that cannot reach its server must say so instead of starting a server of its own.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    # Leases in memory are lost with the server, and their slots stay taken.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class PrefectServer:
    """A running server: `url` is what a browser opens, `environ` what its clients run in."""

    home: Path
    url: str
    log: Path
    environ: Mapping[str, str] = field(repr=False)

    @property
    def api_url(self) -> str:
        """What PREFECT_API_URL has to be."""
        return f"{self.url}/api"

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Let flows that are called in this process report to this server."""
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

        updates = {PREFECT_API_URL: self.api_url, PREFECT_HOME: str(self.home)}
        with temporary_settings(updates=updates):
            try:
                yield
            finally:
                _send_what_is_queued()


def clean_environment(
    home: Path, environ: Mapping[str, str] | None = None, drop: Sequence[str] = ("PREFECT_",)
) -> dict[str, str]:
    """`environ` (this process's by default) without variables that start with a prefix in `drop`.

    PREFECT_HOME is `home`, so no profile of the user's is read; this installation's programs come
    first on PATH. Demo and tests also drop DVC_ and AWS_.
    """
    source = os.environ if environ is None else environ
    kept = {key: value for key, value in source.items() if not key.startswith(tuple(drop))}
    own_programs = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join([own_programs, kept.get("PATH", os.defpath)])
    kept["PREFECT_HOME"] = str(home.absolute())
    # Otherwise the server writes its pages into site-packages, where two servers would collide.
    kept["PREFECT_UI_STATIC_DIRECTORY"] = str(home.absolute() / "ui")
    return kept | _SETTINGS


@contextmanager
def running_server(
    home: Path, *, port: int | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[PrefectServer]:
    """Start a server on the loopback interface, wait until it answers, and stop it at the end.

    `home` keeps database, logs and pages, so that a later start shows earlier runs. `environ` is
    what `clean_environment` returned, when other variables than PREFECT_* must be dropped too.
    Raises ServerUnreachable with the end of the log when it ends or stays silent.
    """
    home.mkdir(parents=True, exist_ok=True)
    (home / "ui").mkdir(exist_ok=True)
    port = free_port() if port is None else port
    url = f"http://127.0.0.1:{port}"
    clients = dict(environ) if environ is not None else clean_environment(home)
    clients["PREFECT_API_URL"] = f"{url}/api"
    server = PrefectServer(home=home, url=url, log=home / "server.log", environ=clients)
    arguments = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--analytics-off"]
    with _child(arguments, clients, server.log) as process:
        _wait_until_ready(server, process)
        yield server


@contextmanager
def running_worker(
    server: PrefectServer,
    *,
    queues: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process worker on the pool `weighbridge`; it serves `queues`, or all of them.

    `environ` is added to the server's: WEIGHBRIDGE_REGISTRY and WEIGHBRIDGE_HOME belong there.
    """
    from flows.deploy import WORK_POOL

    arguments = ["worker", "start", "--pool", WORK_POOL, "--type", "process", "--limit", "1"]
    for queue in queues:
        arguments += ["--work-queue", queue]
    variables = {**server.environ, **(environ or {})}
    with _child(arguments, variables, server.home / "worker.log") as process:
        yield process


def answers(url: str) -> bool:
    """Whether `url` answers 200 within 5 seconds."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _send_what_is_queued() -> None:
    """Let Prefect's background threads send their last logs and events while the server is there.

    Otherwise they try for a minute at exit, with a server that has been stopped.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_DRAIN_TIMEOUT_S, at_exit=False)


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def prefect_command(*arguments: str) -> list[str]:
    """The argument list that runs this environment's prefect."""
    return [sys.executable, "-m", "prefect", *arguments]


@contextmanager
def _child(
    arguments: Sequence[str], environ: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = _start(prefect_command(*arguments), environ, output)
    try:
        yield process
    finally:
        _stop(process)


def _start(
    argv: Sequence[str], environ: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    return subprocess.Popen(
        list(argv),
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Ctrl-C goes to the foreground group only: the parent ends what it does, then its server.
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent),
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(server: PrefectServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not answers(f"{server.api_url}/health"):
        if process.poll() is not None:
            raise ServerUnreachable(server.url, f"it ended with {process.returncode}", server.log)
        if time.monotonic() > deadline:
            fact = f"no answer within {READY_TIMEOUT_S:g} s"
            raise ServerUnreachable(server.url, fact, server.log)
        time.sleep(_POLL_S)
