"""What the terminal shows of a run that ends with an error of ours."""

from __future__ import annotations

import logging

import pytest

from flows.local import _without_own_traceback
from pipelines.errors import Busy


def test_an_error_of_ours_is_logged_as_its_message(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.flow_runs")
    logger.addFilter(_without_own_traceback)
    try:
        raise Busy("the registry", "another process")
    except Busy as error:
        logger.exception("Encountered exception during execution: %r", error)
    try:
        raise KeyError("lost")
    except KeyError as error:
        logger.exception("Encountered exception during execution: %r", error)

    ours, other = caplog.records
    assert ours.getMessage().startswith("the registry is in use by another process")
    assert ours.exc_info is None
    assert other.exc_info is not None
