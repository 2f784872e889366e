"""The local server stands apart from any other Prefect, and dies with its parent."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from flows.server import PrefectServer, clean_environment, running_server
from pipelines.errors import ServerUnreachable


def test_environment_holds_nothing_of_another_prefect(tmp_path: Path) -> None:
    inherited = {
        "PREFECT_API_URL": "https://prefect.example/api",
        "PREFECT_API_KEY": "secret",
        "PREFECT_PROFILE": "company",
        "AWS_PROFILE": "company",
        "LANG": "C.UTF-8",
    }
    clean = clean_environment(tmp_path, inherited)
    assert "secret" not in clean.values()
    assert not {"PREFECT_API_URL", "PREFECT_PROFILE"} & set(clean)
    assert clean["PREFECT_HOME"] == str(tmp_path)
    assert (clean["LANG"], clean["AWS_PROFILE"]) == ("C.UTF-8", "company")
    assert clean["DO_NOT_TRACK"] == "1"
    assert "AWS_PROFILE" not in clean_environment(tmp_path, inherited, drop=("PREFECT_", "AWS_"))


def test_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expected = pytest.raises(ServerUnreachable, match=f"Port {port} is already in use")
        with expected, running_server(tmp_path / "home", port=port):
            pass


def test_server_answers_and_keeps_to_its_own_home(prefect_server: PrefectServer) -> None:
    with urllib.request.urlopen(prefect_server.url) as page:
        assert b"Prefect" in page.read()
    kept = {path.name for path in prefect_server.home.iterdir()}
    assert {"server.log", "ui"} <= kept


def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from flows import server\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "server.prefect_command = lambda *_: sleep\n"
        f"with server._child([], {{}}, Path({str(tmp_path / 'log')!r})) as child:\n"
        "    print(child.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    handle = os.pidfd_open(child)
    try:
        parent.kill()
        parent.wait()
        ended, _, _ = select.select([handle], [], [], 60)
        assert ended
    finally:
        os.close(handle)
        if _alive(child):
            os.kill(child, signal.SIGKILL)


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
