"""A PostgreSQL server of this test run's own, which Prefect's server keeps its state in.

SQLite takes one writer at a time: under load it answers "database is locked", and a form that an
analyst sent is lost. A team's server runs on PostgreSQL, and so does the one that is tested.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_USER = "prefect"
_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=100",
    "fsync=off",  # what a test wrote need not outlive the machine
)


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database, as SQLAlchemy takes it."""
    # Not under pytest's folder: as root, the server runs as another user, who may not look there.
    root = Path(tempfile.mkdtemp(prefix="weighbridge-postgres-"))
    password = secrets.token_hex(16)
    try:
        data, log, secret = root / "data", root / "log", root / "password"
        secret.write_text(password)
        if os.geteuid() == 0:
            for path in (root, secret):
                shutil.chown(path, "postgres")
        port = _free_port()
        _run(
            ["initdb", "-D", str(data), "-U", _USER, "-E", "UTF8", "--locale=C.UTF-8",
             "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        )  # fmt: skip
        options = " ".join(f"-c {setting}" for setting in (*_SETTINGS, f"port={port}"))
        _run(["pg_ctl", "-D", str(data), "-w", "-t", "60", "-l", str(log), "-o", options, "start"])
        try:
            address = ["-h", "127.0.0.1", "-p", str(port), "-U", _USER]
            _run(["createdb", *address, "prefect"], password)
            _run(["psql", *address, "-qc", "create extension pg_trgm", "prefect"], password)
            yield f"postgresql+asyncpg://{_USER}:{password}@127.0.0.1:{port}/prefect"
        finally:
            _run(["pg_ctl", "-D", str(data), "-m", "fast", "-w", "stop"])
    finally:
        shutil.rmtree(root)


def _run(argv: Sequence[str], password: str = "") -> None:
    program = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{argv[0]}"))[-1]
    command = [str(program), *argv[1:]]
    if os.geteuid() == 0:  # initdb and the server refuse to run as root
        command = ["runuser", "-u", "postgres", "--", *command]
    environ = {**os.environ, "PGPASSWORD": password}
    done = subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
