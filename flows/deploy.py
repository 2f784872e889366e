"""Deploy all flows to a Prefect server: work pool, queues, deployments, schedules, automations.

Open-source servers do not notice a worker that died, so two automations do: one marks a run that
stopped sending heartbeats as crashed, one starts crashed runs again. Stages are restored instead of
run twice, so starting again is always safe; `flows.guards` ends a run that crashes every time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipelines.code_digest import PROJECT
from pipelines.subprocesses import OnLine, run

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

WORK_POOL = "weighbridge"
QUEUES = ("cpu", "gpu")
PREFECT_FILE = PROJECT / "infra" / "prefect.yaml"
SILENCE = timedelta(seconds=75)  # 2.5 heartbeats of 30 s
_NAME_PREFIX = "weighbridge: "


def deploy(
    environ: Mapping[str, str] | None = None, on_line: OnLine | None = None
) -> tuple[str, ...]:
    """Deploy to the server that PREFECT_API_URL in `environ` names; returns 'flow/deployment'.

    Runs in a child process in that environment, so that this process's settings play no part.
    Repeating it changes nothing. Raises CommandFailed with what Prefect printed.
    """
    variables = dict(os.environ if environ is None else environ)
    argv = [sys.executable, "-m", "flows.deploy"]
    done = run(argv, cwd=PROJECT, env=variables, on_line=on_line)
    return tuple(
        line.removeprefix("deployed ")
        for line in done.stdout.splitlines()
        if line.startswith("deployed ")
    )


def main() -> None:
    """Deploy in this process's environment and print each deployment."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        ensure_work_pool(client)
        prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
        arguments = ["deploy", "--all", "--prefect-file", str(PREFECT_FILE)]
        run([*prefect, *arguments], cwd=PROJECT)
        ensure_automations(client)
        for name in deployment_names(client):
            print(f"deployed {name}", flush=True)


def ensure_work_pool(client: SyncPrefectClient) -> None:
    """Make the process pool and its queues where absent; an existing pool keeps its settings."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template)
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
    for queue in QUEUES:
        with suppress(ObjectAlreadyExists):
            client.create_work_queue(queue, work_pool_name=WORK_POOL)


def ensure_automations(client: SyncPrefectClient) -> None:
    """Make or update, by name, the automations that find dead runs and start them again."""
    for automation in automations():
        found = client.read_automations_by_name(automation.name)
        if found:
            client.update_automation(found[0].id, automation)
        else:
            client.create_automation(automation)


def automations() -> list[AutomationCore]:
    """The two automations: silent runs become crashed, crashed runs of deployments start again."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore

    died = f"No heartbeat for {SILENCE.seconds} s: its process or worker died."
    crash = ChangeFlowRunState(state=StateType.CRASHED, message=died)
    again = ChangeFlowRunState(
        state=StateType.SCHEDULED,
        name="AwaitingRetry",
        message="Started again after a crash.",
        force=True,
    )
    silent, crashed = _triggers()
    return [
        AutomationCore(
            name=f"{_NAME_PREFIX}dead runs",
            description=f"A run without a heartbeat for {SILENCE.seconds} s has crashed.",
            trigger=silent,
            actions=[crash],
        ),
        AutomationCore(
            name=f"{_NAME_PREFIX}start crashed runs again",
            description="Finished stages are restored. A run that crashes each time ends itself.",
            trigger=crashed,
            actions=[again],
        ),
    ]


def _triggers() -> tuple[EventTrigger, EventTrigger]:
    """When a run has been silent for too long, and when a run of a deployment has crashed."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    ends = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
    heartbeat = "prefect.flow-run.heartbeat"
    silent = EventTrigger(
        after={heartbeat},
        expect={heartbeat, *(f"prefect.flow-run.{end}" for end in ends)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    )
    crashed = EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "deployment"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    return silent, crashed


def deployment_names(client: SyncPrefectClient) -> list[str]:
    """Every deployment on the pool, as 'flow/deployment', sorted."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    found = client.read_deployments()
    return sorted(f"{flows[d.flow_id]}/{d.name}" for d in found if d.work_pool_name == WORK_POOL)


def scheduled_runs(client: SyncPrefectClient, deployment: str) -> int:
    """How many future runs the scheduler has made for 'flow/deployment'.

    The only proof that the scheduler lives: a server whose scheduler has died still answers its
    health check.
    """
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
    )
    from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypeFilter
    from prefect.client.schemas.objects import StateType

    found = client.read_deployment_by_name(deployment)
    scheduled = StateTypeFilter(any_=[StateType.SCHEDULED])
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[found.id])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=scheduled)),
    )
    now = datetime.now(UTC)
    return sum(1 for run in runs if run.expected_start_time and run.expected_start_time > now)


if __name__ == "__main__":
    main()
