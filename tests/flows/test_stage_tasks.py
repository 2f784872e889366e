"""What a stage says reaches Prefect: its progress as log lines, its refusal as an error of ours."""

from __future__ import annotations

import pytest

from flows.stage_tasks import stage_error
from pipelines.errors import CommandFailed, StageFailed, StageRefused, exit_code

DVC_SAYS = """\
Running stage 'evaluate@some':
> exec weighbridge stage evaluate some
weighbridge: some is not verified: a pickle runs code.
ERROR: failed to reproduce 'evaluate@some': failed to run: exec weighbridge stage evaluate some, \
exited with {code}
"""


def failed(output: str) -> CommandFailed:
    return CommandFailed(["dvc", "repro"], 255, output)


def test_refusal_of_a_stage_stays_a_refusal() -> None:
    with pytest.raises(StageRefused, match=r"^evaluate@some: some is not verified") as caught:
        raise stage_error("evaluate@some", failed(DVC_SAYS.format(code=1)))
    assert exit_code(caught.value) == 1


def test_failure_of_a_stage_stays_a_failure() -> None:
    error = stage_error("evaluate@some", failed(DVC_SAYS.format(code=3)))
    assert isinstance(error, StageFailed)
    assert exit_code(error) == 3


def test_other_troubles_of_dvc_are_told_as_they_are() -> None:
    error = failed("ERROR: remote is not reachable")
    assert stage_error("evaluate@some", error) is error
