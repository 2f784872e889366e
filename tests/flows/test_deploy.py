"""infra/prefect.yaml on a real server: everything is there, and the scheduler lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.schedules import CronSchedule

from flows.deploy import (
    QUEUES,
    WORK_POOL,
    automations,
    deployment_names,
    ensure_automations,
    ensure_work_pool,
    scheduled_runs,
)
from flows.server import PrefectServer

NAMES = (
    "batch-inference/ask-documents",
    "finetune/tune",
    "gate/compare",
    "nightly-evaluation/nightly",
    "onboard/bring-in",
    "promote/promote",
    "release/whole-chain",
)


@pytest.fixture
def client(connected: PrefectServer, deployments: tuple[str, ...]) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def wait_for(happens: Callable[[], bool]) -> None:
    while not happens():  # the test's own time limit ends a wait that never does
        time.sleep(1)


def test_all_flows_are_deployed(deployments: tuple[str, ...], client: SyncPrefectClient) -> None:
    assert deployments == NAMES
    assert tuple(deployment_names(client)) == NAMES


def test_scheduler_makes_future_runs_of_the_nightly_evaluation(client: SyncPrefectClient) -> None:
    wait_for(lambda: scheduled_runs(client, "nightly-evaluation/nightly") > 0)


def test_nightly_evaluation_follows_the_clock_of_a_time_zone(client: SyncPrefectClient) -> None:
    deployment = client.read_deployment_by_name("nightly-evaluation/nightly")
    (schedule,) = deployment.schedules
    assert schedule.active
    assert isinstance(schedule.schedule, CronSchedule)
    assert schedule.schedule.timezone == "Europe/Berlin"


def test_heavy_flows_wait_for_each_other_on_the_gpu_queue(client: SyncPrefectClient) -> None:
    for name in ("release/whole-chain", "finetune/tune", "batch-inference/ask-documents"):
        deployment = client.read_deployment_by_name(name)
        assert deployment.work_queue_name == "gpu"
        assert deployment.global_concurrency_limit is not None
        assert deployment.global_concurrency_limit.limit == 1


def test_wrong_choice_is_refused_by_the_server(client: SyncPrefectClient) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    deployment = client.read_deployment_by_name("promote/promote")
    with pytest.raises(PrefectHTTPStatusError, match=r"4\d\d"):
        client.create_flow_run_from_deployment(
            deployment.id, parameters={"candidate": "some", "stage": "moon"}
        )


def test_deploying_again_keeps_one_pool_and_one_of_each_automation(
    client: SyncPrefectClient,
) -> None:
    ensure_work_pool(client)
    ensure_automations(client)
    queues = {queue.name for queue in client.read_work_queues(work_pool_name=WORK_POOL)}
    assert set(QUEUES) <= queues
    found = client.read_automations()
    assert sorted(automation.name for automation in found) == sorted(
        automation.name for automation in automations()
    )
