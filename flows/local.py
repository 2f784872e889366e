"""Which Prefect server a command reports to: the company's, the one that is up, or its own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.server import (
    PrefectServer,
    answers,
    clean_environment,
    free_port,
    running_server,
    running_worker,
)
from pipelines.canonical import write_bytes
from pipelines.errors import Busy, ServerUnreachable, WeighbridgeError
from pipelines.settings import Settings

DEFAULT_PORT = 4200
_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
_POLL_S = 10.0
_SILENT_POLLS = 6


def _without_own_traceback(record: logging.LogRecord) -> bool:
    """Log an error of ours as its message: who reads a terminal needs the fact and the remedy."""
    if record.exc_info and isinstance(record.exc_info[1], WeighbridgeError):
        record.msg, record.args = "%s", (record.exc_info[1],)
        record.exc_info = None
    return True


@contextmanager
def reporting(settings: Settings) -> Iterator[None]:
    """Connect flows that are called in this process to a server, for the block.

    A configured server (PREFECT_API_URL, or the active Prefect profile) is used as it is. Without
    one, the server of `weighbridge up` is used when it runs, and otherwise one is started on the
    same database for as long as the block lasts. Call this before anything imports Prefect.
    """
    _name_registry(settings)
    for name in _RUN_LOGGERS:
        logging.getLogger(name).addFilter(_without_own_traceback)
    if os.environ.get("PREFECT_API_URL") or _profile_names_server():
        yield
        return
    home = settings.home / "prefect"
    environ = clean_environment(home)
    os.environ.update(environ)
    url = _url_of_running(home)
    if url:
        log = home / "server.log"
        server = PrefectServer(home=home, url=url, log=log, environ=environ)
        with server.connected():
            yield
        return
    with running_server(home) as own, own.connected():
        yield


@contextmanager
def up(settings: Settings, port: int | None) -> Iterator[PrefectServer]:
    """Server, deployments and one worker for the registry, until the block ends.

    Raises Busy when this registry's server is up already, and ServerUnreachable.
    """
    from flows.deploy import deploy

    home = settings.home / "prefect"
    if url := _url_of_running(home):
        raise Busy(f"the Prefect database {home}", f"the server at {url}: open that page")
    _name_registry(settings)
    names = {name: os.environ[name] for name in ("WEIGHBRIDGE_REGISTRY", "WEIGHBRIDGE_HOME")}
    with running_server(home, port=port or _free_default_port()) as server:
        write_bytes(home / "server.url", server.url.encode())
        try:
            deploy(server.environ)
            with running_worker(server, environ=names):
                yield server
        finally:
            (home / "server.url").unlink(missing_ok=True)


def wait_while_up(server: PrefectServer) -> None:
    """Wait until this process is interrupted; raises ServerUnreachable when the server is gone."""
    silent = 0
    while silent < _SILENT_POLLS:
        time.sleep(_POLL_S)
        silent = 0 if answers(f"{server.api_url}/health") else silent + 1
    raise ServerUnreachable(server.url, f"it has not answered {silent} times in a row", server.log)


def _name_registry(settings: Settings) -> None:
    os.environ["WEIGHBRIDGE_REGISTRY"] = str(settings.work_tree or settings.origin)
    os.environ["WEIGHBRIDGE_HOME"] = str(settings.home)


def _profile_names_server() -> bool:
    """Whether the user's active Prefect profile names a server, without importing Prefect."""
    import tomllib

    path = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect")) / "profiles.toml"
    if not path.is_file():
        return False
    profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active", ""))
    return "PREFECT_API_URL" in profiles.get("profiles", {}).get(active, {})


def _url_of_running(home: Path) -> str:
    """The URL of a server that `up` started on this database and that still answers, or ''."""
    noted = home / "server.url"
    url = noted.read_text(encoding="ascii") if noted.is_file() else ""
    return url if url and answers(f"{url}/api/health") else ""


def _free_default_port() -> int:
    """Prefect's usual port, or any free one when that is taken."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            return free_port()
    return DEFAULT_PORT
