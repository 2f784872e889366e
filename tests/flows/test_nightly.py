"""A night on a real server: order, budgets, control, regressions, history, and its event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from toy_registry import behave, copied

from flows.night_history import NightRecord, NightRow, past
from flows.night_plan import Budget
from flows.nightly_evaluation import REGRESSED, nightly_evaluation
from flows.onboard import onboard
from flows.parameters import ModelForm
from flows.server import PrefectServer
from pipelines.errors import ConfigError, NothingEvaluated, UnknownName
from pipelines.settings import Settings
from pipelines.store import git

REFERENCE = f"file:///toy#sha256={'a' * 64}"


class Onboarded(NamedTuple):
    base: Path


def night(control: str = "", budget: Budget | None = None, *models: str) -> dict[str, NightRow]:
    rows = cast("tuple[NightRow, ...]", nightly_evaluation(models, control, budget or Budget()))
    return {f"{row.role}/{row.evaluation}": row for row in rows}


@pytest.fixture(scope="module")
def onboarded(
    toy_template: Path, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Onboarded]:
    base = tmp_path_factory.mktemp("nightly") / "toy"
    with pytest.MonkeyPatch.context() as patch, prefect_server.connected():
        copied(toy_template, base, patch)
        for name in ("first", "second"):
            onboard(ModelForm(name=name, reference=REFERENCE), ("smoke",))
        yield Onboarded(base)


@pytest.fixture
def registry(
    onboarded: Onboarded,
    connected: PrefectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    return copied(onboarded.base, tmp_path / "toy", monkeypatch)


def pages(key: str) -> list[str]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        )
    return [str(artifact.data) for artifact in found]


async def events(name: str) -> int:
    from prefect.client.orchestration import get_client as client
    from prefect.events.filters import EventFilter, EventNameFilter

    wanted = EventFilter(event=EventNameFilter(name=[name]))
    async with client() as server:
        body = {"filter": wanted.model_dump(mode="json")}
        answer = await server._client.post("/events/filter", json=body)
        return int(answer.json()["total"])


def test_a_model_that_forgot_is_found_with_what_was_asked_and_both_answers(
    registry: Settings,
) -> None:
    assert night()["other/first-smoke"].outcome == "current"
    behave(registry, "broken", "forgetful-first")
    rows = night("", Budget(hours=1, usd=5, usd_per_hour=4.0))
    assert rows["other/first-smoke"].cost_usd is not None
    assert {name: row.outcome for name, row in rows.items()} == {
        "other/first-smoke": "evaluated",
        "other/second-smoke": "evaluated",
    }
    before, after = past(registry)
    assert before.changes == ()
    (regression,) = after.regressions
    assert (regression.evaluation, regression.change.task) == ("first-smoke", "toy")
    assert len(regression.change.flips) == 30
    flip = regression.change.flips[0]
    assert (flip.prompt, flip.before, flip.after) == ("Is 120 | a number?", "yes", "no")
    page = next(page for page in pages("nightly-report") if "Worse: first-smoke" in page)
    assert "| toy-120 | Is 120 \\| a number? | yes | no | yes |" in page
    assert "data:image/svg+xml;base64," in page
    assert "10 more are in the night's HTML file" in page
    (html,) = sorted((registry.home / "nights").glob("*.html"))[-1:]
    assert "toy-149" in html.read_text()
    while not asyncio.run(events(REGRESSED)):
        pass  # events arrive a moment later; the test's own time limit ends a wait that never does


def test_a_control_is_scored_again_outside_of_the_registry(registry: Settings) -> None:
    assert registry.work_tree is not None
    held = git.git(registry.work_tree, "ls-remote", "origin", "main")
    rows = night("first")
    assert rows["control/first-smoke"].outcome == "no drift"
    assert rows["control/first-smoke"].detail == "300 items came out as recorded"
    assert git.git(registry.work_tree, "ls-remote", "origin", "main") == held
    (kept,) = (registry.home / "nights" / "controls" / "first-smoke").glob("2*")
    assert (kept / "items.parquet").is_file()
    behave(registry, "broken", "forgetful-first")
    rows = night("first", None, "second")
    assert rows["control/first-smoke"].outcome == "drifted"
    assert "30 of 300 items of first on smoke moved" in rows["control/first-smoke"].detail
    assert past(registry)[-1].drifted[0].name == "first"


def test_what_does_not_fit_the_budget_is_left_out_and_named(registry: Settings) -> None:
    behave(registry, "broken", "forgetful-first")
    with pytest.raises(NothingEvaluated, match="first-smoke: time budget"):
        night("", Budget(hours=1e-9))
    with pytest.raises(NothingEvaluated, match="money budget: about"):
        night("", Budget(usd=1e-9, usd_per_hour=4.0))
    assert [row.outcome for row in past(registry)[-1].rows] == ["left out", "left out"]
    with pytest.raises(ConfigError, match="an amount of money and no price"):
        night("", Budget(usd=1.0))


def test_a_control_that_is_no_model_or_not_in_production(registry: Settings) -> None:
    with pytest.raises(UnknownName):
        night("third")
    assert set(night("production")) == {"other/first-smoke", "other/second-smoke"}


def test_nights_are_read_back_oldest_first_and_as_they_were(tmp_path: Path) -> None:
    from flows.night_history import keep

    settings = Settings(origin="", home=tmp_path)
    row = NightRow(evaluation="a", outcome="current", detail="")
    made = [
        NightRecord(began_at=f"2026-11-{day}T01:30:00+00:00", rows=(row,), scores=(), changes=())
        for day in (23, 22)
    ]
    for each in made:
        keep(settings, each)
    assert past(settings) == made[::-1]
