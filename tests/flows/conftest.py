"""One real Prefect server for all tests of the flows, with what infra/prefect.yaml deploys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flows.deploy import deploy
from flows.server import PrefectServer, clean_environment, running_server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server with a home of its own, on a free port of the loopback interface."""
    home = tmp_path_factory.mktemp("prefect")
    environ = clean_environment(home, drop=("PREFECT_", "WEIGHBRIDGE_"))
    environ |= {
        # Look for work and for schedules more often than a production server needs to.
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
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
