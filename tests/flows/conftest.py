"""One real Prefect server for all tests of the flows, and registries that are quick to run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_registry
from postgres import postgres

from flows.deploy import deploy
from flows.server import PrefectServer, clean_environment, running_server
from pipelines.settings import Settings


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server with a home of its own, on a free port of the loopback interface."""
    home = tmp_path_factory.mktemp("prefect")
    environ = clean_environment(home, drop=("PREFECT_", "WEIGHBRIDGE_"))
    with postgres() as database:
        environ |= {"PREFECT_API_DATABASE_CONNECTION_URL": database}
        yield from _server(home, environ)


def _server(home: Path, environ: dict[str, str]) -> Iterator[PrefectServer]:
    environ |= {
        # Look for work and for schedules more often than a production server needs to.
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "15",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
    }
    with running_server(home, environ=environ) as server:
        yield server


@pytest.fixture(scope="session")
def deployments(prefect_server: PrefectServer) -> tuple[str, ...]:
    """What infra/prefect.yaml deploys to that server, as 'flow/deployment'."""
    return deploy(prefect_server.environ)


@pytest.fixture
def connected(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """Flows that are called in this process report to the server."""
    with prefect_server.connected():
        yield prefect_server


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose release graph is the real one and whose stages take no time."""
    return toy_registry.make(tmp_path_factory.mktemp("toy-registry"))


@pytest.fixture
def toy(toy_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of that registry for one test; the flows find it as a worker does."""
    return toy_registry.copied(toy_template, tmp_path / "toy", monkeypatch)
