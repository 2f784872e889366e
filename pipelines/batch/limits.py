"""Limits: what a job may cost, and until when; checked at plan and while it runs."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from pipelines.batch.job import Limits, deadline_after
from pipelines.batch.records import JobPlan, Spent
from pipelines.errors import ConfigError, LimitReached

PRICE_VARIABLE = "WEIGHBRIDGE_USD_PER_HOUR"


def price_usd_per_hour(limits: Limits) -> float | None:
    """What an hour of one worker costs: the job's own price, else the machine's, else unknown.

    Raises ConfigError when the variable holds no price, and when `max_usd` is set but nothing says
    what an hour costs: a limit that cannot be checked would never stop anything.
    """
    price, said = limits.usd_per_hour, os.environ.get(PRICE_VARIABLE, "")
    if price is None and said:
        try:
            price = float(said)
        except ValueError:
            price = -1.0
        if not 0 < price < float("inf"):
            raise ConfigError(PRICE_VARIABLE, f"{said!r} is no price", "Give US dollars, as 2.50.")
    if price is None and limits.max_usd is not None:
        raise ConfigError(
            "limits.max_usd",
            "nothing says what an hour of this machine costs",
            f"Set limits.usd_per_hour in the job, or {PRICE_VARIABLE}.",
        )
    return price


def check_planned(plan: JobPlan, limits: Limits, least_usd: float | None = None) -> None:
    """Refuse a job that is known to exceed its limits before anything is spent.

    Every prompt is read once at the least, so more prompt tokens than `max_tokens` are certain to
    exceed it. `least_usd` is the lower end of an estimate, where there is one. Raises LimitReached
    (also for a deadline that has passed) and ConfigError as `price_usd_per_hour` does.
    """
    price_usd_per_hour(limits)
    name = plan.job.name
    if limits.max_tokens is not None and plan.prompt_tokens > limits.max_tokens:
        fact = f"its prompts alone have {plan.prompt_tokens} tokens"
        raise LimitReached(name, "max_tokens", limits.max_tokens, fact)
    if limits.max_usd is not None and least_usd is not None and least_usd > limits.max_usd:
        fact = f"it is estimated to cost {least_usd:.2f} USD at the least"
        raise LimitReached(name, "max_usd", limits.max_usd, fact)
    check_spent(name, limits, Spent())


def check_spent(name: str, limits: Limits, spent: Spent, now: datetime | None = None) -> None:
    """Raise LimitReached when what a job has spent so far has reached one of its limits."""
    now = now or datetime.now(UTC)
    tokens = spent.prompt_tokens + spent.completion_tokens
    if limits.max_tokens is not None and tokens >= limits.max_tokens:
        raise LimitReached(name, "max_tokens", limits.max_tokens, f"{tokens} tokens are spent")
    if limits.max_usd is not None and spent.usd is not None and spent.usd >= limits.max_usd:
        raise LimitReached(name, "max_usd", limits.max_usd, f"{spent.usd:.2f} USD are spent")
    if limits.deadline is not None:
        began = spent.began_at and datetime.fromisoformat(spent.began_at)
        end = deadline_after(limits.deadline, began or now)
        if now >= end:
            raise LimitReached(name, "deadline", limits.deadline, f"{end.isoformat()} has passed")
