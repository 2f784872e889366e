"""Limits: a job stops at what it may cost, says so, and goes on when it may cost more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from finishing import Engines, do_work, finish
from pydantic import ValidationError

from pipelines.batch import watch
from pipelines.batch.job import BatchJob, Limits, deadline_after
from pipelines.batch.limits import check_planned, check_spent, price_usd_per_hour
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk, Spent
from pipelines.batch.status import status
from pipelines.batch.store import open_store
from pipelines.batch.usage import WorkerUsage, read_usage, spent, write_usage
from pipelines.errors import ConfigError, LimitReached

MakeJob = Callable[..., BatchJob]
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_token_limit_stops_at_what_was_in_flight_and_a_higher_one_goes_on(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    job, engines = make_job(), Engines()
    planned = plan(job, tiny_model)
    row = planned.prompt_tokens // 40 + 7
    limit = planned.prompt_tokens + 1
    low = make_job(limits={"max_error_rate": 1.0, "max_tokens": limit})
    with pytest.raises(LimitReached, match=r"raise limits\.max_tokens in the job file"):
        do_work(low, tiny_model, engines)
    now = status(job.output)
    used = now.spent.prompt_tokens + now.spent.completion_tokens
    assert limit <= used <= limit + 12 * (row + 1)
    assert now.state == "stopped"
    with pytest.raises(LimitReached):  # what earlier runs spent counts
        do_work(low, tiny_model, engines)
    assert len(engines.made) == 1
    assert finish(job, tiny_model).rows_ok == 40


def test_job_whose_prompts_exceed_the_limit_is_refused_before_it_runs(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    planned = plan(make_job(), tiny_model)
    with pytest.raises(LimitReached, match="its prompts alone have"):
        check_planned(planned, Limits(max_tokens=planned.prompt_tokens - 1))
    check_planned(planned, Limits(max_tokens=planned.prompt_tokens))
    with pytest.raises(LimitReached, match=r"estimated to cost 3\.00 USD"):
        check_planned(planned, Limits(max_usd=2, usd_per_hour=1), least_usd=3.0)
    check_planned(planned, Limits(max_usd=2, usd_per_hour=1), least_usd=1.9)


def test_money_is_the_time_of_every_worker_at_its_price() -> None:
    begun = {"host": "h", "pid": 1, "share": "1/2", "started_at": 0.0}
    two = [
        WorkerUsage(**begun, at=1800.0, usd_per_hour=2.0),
        WorkerUsage(**begun, at=3600.0, usd_per_hour=4.0, ended=True),
    ]
    assert spent(two).usd == 5.0
    assert spent(two).began_at == "1970-01-01T00:00:00+00:00"
    unpriced = WorkerUsage(**begun, at=1.0)
    assert spent([*two, unpriced]).usd is None
    limits = Limits(max_usd=5, usd_per_hour=2)
    with pytest.raises(LimitReached, match=r"5\.00 USD are spent"):
        check_spent("job", limits, spent(two))
    check_spent("job", limits, spent(two[:1]))


def test_price_comes_from_the_job_or_the_machine_and_a_limit_needs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert price_usd_per_hour(Limits()) is None
    with pytest.raises(ConfigError, match="WEIGHBRIDGE_USD_PER_HOUR"):
        price_usd_per_hour(Limits(max_usd=1))
    monkeypatch.setenv("WEIGHBRIDGE_USD_PER_HOUR", "2.5")
    assert price_usd_per_hour(Limits(max_usd=1)) == 2.5
    assert price_usd_per_hour(Limits(usd_per_hour=4)) == 4
    for wrong in ("cheap", "-1", "nan"):
        monkeypatch.setenv("WEIGHBRIDGE_USD_PER_HOUR", wrong)
        with pytest.raises(ConfigError, match="is no price"):
            price_usd_per_hour(Limits())


@pytest.mark.parametrize(
    ("deadline", "after"),
    [("90min", timedelta(minutes=90)), ("1.5 h", timedelta(minutes=90)), ("2d", timedelta(days=2))],
)
def test_deadline_counts_from_the_first_run(deadline: str, after: timedelta) -> None:
    assert deadline_after(deadline, NOW) == NOW + after
    limits = Limits(deadline=deadline)
    check_spent("job", limits, Spent(began_at=NOW.isoformat()), NOW + after - timedelta(seconds=1))
    with pytest.raises(LimitReached, match="has passed"):
        check_spent("job", limits, Spent(began_at=NOW.isoformat()), NOW + after)
    check_spent("job", limits, Spent(), NOW + after)  # no worker has started yet


def test_deadline_is_an_instant_with_a_zone() -> None:
    instant = Limits.model_validate({"deadline": datetime(2026, 11, 22, 13, tzinfo=UTC)})
    assert instant.deadline == "2026-11-22T13:00:00+00:00"
    with pytest.raises(LimitReached, match=r"limits\.deadline is 2026"):
        check_spent("job", instant, Spent(), NOW + timedelta(hours=1))
    wrong: list[Any] = ["2026-11-22T13:00:00", datetime(2026, 11, 22), "soon", 8]
    for value in wrong:
        with pytest.raises(ValidationError):
            Limits.model_validate({"deadline": value})


def test_worker_finds_out_while_it_runs_that_others_spent_the_rest(
    make_job: MakeJob, tiny_model: ModelOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "INTERVAL_S", 0.05)
    job = make_job(limits={"max_error_rate": 1.0, "max_usd": 1.0, "usd_per_hour": 3.0})
    plan(job, tiny_model)
    store = open_store(job.output)
    other = WorkerUsage(
        host="elsewhere", pid=1, share="2/2", started_at=0.0, at=1196.0, usd_per_hour=3.0
    )
    write_usage(store, "workers/elsewhere.json", other)
    engines = Engines()
    engines.script = engines.script.model_copy(update={"slow_s": 1.0})
    with pytest.raises(LimitReached, match="USD are spent"):
        do_work(job, tiny_model, engines)
    assert 0 < status(job.output).rows_journaled < 40
    assert len(read_usage(store, {})) == 2
