"""`weighbridge gc`: show what the store keeps and what may go, and remove it when told to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from flows.console import Table
from pipelines.canonical import Frozen
from pipelines.file_lock import exclusive
from pipelines.settings import Settings
from pipelines.store.collection import Removed, collect, recover, remove
from pipelines.store.retention import (
    Item,
    Plan,
    RetentionConfig,
    parse_period,
    parse_size,
)

_UNITS = ("B", "kB", "MB", "GB", "TB")


class Collected(Frozen):
    """The plan, and what was removed if anything was."""

    plan: Plan
    removed: Removed | None = None


def parse_config(budget: str, older_than: str, not_in_remote: bool) -> RetentionConfig:
    """The options as typed on the command line; raises ConfigError."""
    return RetentionConfig(
        older_than_s=parse_period(older_than),
        budget_bytes=parse_size(budget) if budget else None,
        not_in_remote=not_in_remote,
    )


def collect_garbage(settings: Settings, config: RetentionConfig, *, removing: bool) -> Collected:
    """Plan, and with `removing` remove; one at a time on a machine. See `collect` for errors."""
    with exclusive(settings.home / "gc.lock", "garbage collection"):
        if not removing:
            return Collected(plan=collect(settings, config, time.time()))
        recover(settings.cache)
        plan = collect(settings, config, time.time())
        return Collected(plan=plan, removed=remove(settings, plan.going))


def tables(collected: Collected) -> list[Table]:
    """What stays and why, what may go, and the totals."""
    plan, removed = collected.plan, collected.removed
    kept = tuple((k.why, str(k.count), human(k.size_bytes)) for k in plan.kept)
    going = "Removed" if removed else "Would be removed"
    found = [
        Table(title="Kept", columns=("why", "entries", "bytes"), rows=kept),
        _items(going, plan.going),
    ]
    if plan.within_budget:
        found.append(_items("Could go, but the store is within its budget", plan.within_budget))
    if plan.not_in_remote:
        title = "Not in the remote: cannot be restored (--not-in-remote removes them too)"
        found.append(_items(title, plan.not_in_remote))
    found = [table for table in found if table.rows]
    return [*found, Table(title="Totals", columns=("fact", "value"), rows=_totals(collected))]


def _totals(collected: Collected) -> tuple[tuple[str, str], ...]:
    plan, removed = collected.plan, collected.removed
    rows = [("store", human(plan.total_bytes))]
    if removed is None:
        rows.append(("would be removed", human(plan.going_bytes)))
        rows.append(("to remove it", "weighbridge gc --remove, with the same options"))
    else:
        rows.append(("removed", f"{human(removed.size_bytes)} in {removed.count} entries"))
        if removed.taken_up:
            rows.append(("taken up meanwhile, kept", str(len(removed.taken_up))))
    if plan.budget_bytes is not None:
        rows.append(("budget", human(plan.budget_bytes)))
    if plan.over_budget_bytes:
        fact = f"{human(plan.over_budget_bytes)} over: what is left must stay"
        rows.append(("budget not reached", fact))
    return tuple(rows)


def _items(title: str, items: Sequence[Item]) -> Table:
    """One row for all entries of one kind that share name and reason."""
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.kind, item.what, item.why), []).append(item)
    rows = tuple(
        (
            kind if len(group) == 1 else f"{len(group)} × {kind}",
            what,
            why,
            human(sum(item.size_bytes for item in group)),
            _day(max(item.last_used for item in group)),
        )
        for (kind, what, why), group in groups.items()
    )
    return Table(title=title, columns=("kind", "what", "why", "bytes", "last used"), rows=rows)


def human(size_bytes: int) -> str:
    """Bytes in decimal units: 12.3 GB."""
    size, unit = float(size_bytes), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size_bytes} B"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
