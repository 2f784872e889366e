"""Progress reaches the log and a bar in the Prefect UI, and neither can fail the work."""

from __future__ import annotations

import logging

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client

from flows.run_progress import RunProgress
from flows.server import PrefectServer


def test_progress_is_one_line_at_the_beginning_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    progress = RunProgress(logging.getLogger("stage"))
    with caplog.at_level(logging.INFO):
        progress("chatter of a library")
        for done in range(101):
            progress.report(done, 100, "items", "scoring")
        progress('@progress {"what": "reading", "done": 2, "total": 0, "unit": "GB"}')
    first, last, other = (record.message for record in caplog.records)
    assert first == "scoring: 0 of 100 items (0 %)"
    assert last.startswith("scoring: 100 of 100 items (100 %)")
    assert other == "reading: 2 GB"


def test_a_progress_bar_stands_in_the_ui_and_ends_full(connected: PrefectServer) -> None:
    @task
    def work() -> None:
        with RunProgress(logging.getLogger("stage"), "Progress ingest@tiny_1") as progress:
            progress.report(30, 100, "MB", "bring in hf://acme/tiny")

    @flow
    def onboard() -> None:
        work()

    onboard()

    with get_client(sync_client=True) as client:
        found = [a for a in client.read_artifacts() if a.key == "progress-ingest-tiny-1"]
    (bar,) = found
    assert bar.type == "progress"
    assert bar.data == 100.0
    assert bar.task_run_id is not None
    assert "bring in hf://acme/tiny: 30 of 100 MB" in (bar.description or "")


def test_a_server_that_is_away_cannot_fail_the_work(
    monkeypatch: pytest.MonkeyPatch, connected: PrefectServer
) -> None:
    monkeypatch.setattr("flows.run_progress._LAST_WORD_S", 0.1)

    @task
    def work() -> str:
        # Within the task only: the run itself must reach its server to start and to end.
        monkeypatch.setattr("flows.run_progress.create_progress_artifact", unreachable)
        with RunProgress(logging.getLogger("stage"), "away") as progress:
            progress.report(1, 2, "MB", "bring in")
        return "done"

    @flow
    def onboard() -> str:
        return work()

    assert onboard() == "done"


def unreachable(*_: object, **__: object) -> None:
    """What the client raises when nothing listens (the real server is needed by the run)."""
    import httpx

    raise httpx.ConnectError("All connection attempts failed")
