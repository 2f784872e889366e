"""A run that crashes every time ends itself."""

from __future__ import annotations

import pytest

from flows.guards import MAX_STARTS, refuse_endless_restarts
from pipelines.errors import RestartedTooOften


def start_number(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # How Prefect lets a test say what the runtime is.
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(count))
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", "release mail")


def test_run_may_start_again_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    start_number(MAX_STARTS, monkeypatch)
    refuse_endless_restarts()


def test_run_that_crashes_every_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    start_number(MAX_STARTS + 1, monkeypatch)
    with pytest.raises(RestartedTooOften, match="release mail was started 5 times"):
        refuse_endless_restarts()
