"""The one task that every flow is made of: bring one stage instance up to date and publish it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from prefect import get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE

from flows.guards import refuse_endless_restarts
from flows.run_progress import RunProgress
from pipelines.errors import CommandFailed, StageFailed, StageRefused
from pipelines.records import RecordT, read_record
from pipelines.settings import load_settings
from pipelines.store.dvc import StageOutcome
from pipelines.store.workspace import Workspace, open_workspace

_open: ContextVar[Workspace | None] = ContextVar("weighbridge_workspace", default=None)
_OWN_MESSAGE = re.compile(r"^weighbridge: (.*)$", re.MULTILINE)  # as flows.console writes it
_REFUSED = re.compile(r"exited with 1\b")  # how dvc reports the stage's exit code


@contextmanager
def flow_workspace() -> Iterator[Workspace]:
    """The clone of the registry that this flow run works in; subflows share their parent's.

    Which registry is said by WEIGHBRIDGE_REGISTRY and WEIGHBRIDGE_HOME.
    """
    refuse_endless_restarts()
    if (shared := _open.get()) is not None:
        yield shared
        return
    with open_workspace(load_settings()) as workspace:
        token = _open.set(workspace)
        try:
            yield workspace
        finally:
            _open.reset(token)


def _run_name() -> str:
    instance = runtime.task_run.parameters["instance"]
    return str(instance).replace("@", " ")


# Prefect's cache plays no part: whether a stage must run is DVC's to say.
@task(name="stage", task_run_name=_run_name, cache_policy=NO_CACHE)
def run_stage(workspace: Workspace, instance: str) -> StageOutcome:
    """Bring `instance` ('stage@key') up to date, then push outputs, run cache and dvc.lock.

    What a killed flow has published is what its next run starts from. Raises StageRefused or
    StageFailed with the stage's own message, and what Workspace.publish raises.
    """
    log = get_run_logger()
    try:
        with RunProgress(log, f"progress {instance}") as progress:
            outcome = workspace.reproduce(instance, on_line=progress)
    except CommandFailed as error:
        raise stage_error(instance, error) from error
    if outcome != "unchanged":
        workspace.publish(f"{instance}: {outcome}")
    log.info("%s: %s", instance, outcome)
    return outcome


def stage_error(instance: str, error: CommandFailed) -> StageRefused | StageFailed | CommandFailed:
    """The error that the stage itself reported, found in what dvc printed around it.

    Without one, the error is returned as it is: dvc itself is in trouble.
    """
    messages = _OWN_MESSAGE.findall(error.output)
    if not messages:
        return error
    kind = StageRefused if _REFUSED.search(error.output) else StageFailed
    return kind(instance, messages[-1])


def evidence(workspace: Workspace, path: Path, kind: type[RecordT]) -> RecordT:
    """A record in the workspace, fetched first where the clone does not hold it yet."""
    if not path.is_file():
        workspace.restore(path.parent.relative_to(workspace.root).as_posix())
    return read_record(path, kind)
