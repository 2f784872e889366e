"""`weighbridge advisories …`: known vulnerabilities of the environment, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.options import Json, Registry

if TYPE_CHECKING:
    from pipelines.advisories import Examined
    from pipelines.verification.policy import AdvisoryPolicy

app = typer.Typer(
    help="Known vulnerabilities: take an OSV snapshot in, compare the environment with it.",
    no_args_is_help=True,
)


@app.command()
def update(
    source: Annotated[str, typer.Argument(help="A zip of OSV (PyPI/all.zip), or its address.")],
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Take a snapshot of advisories in; the only command that asks a mirror."""
    from flows.patches import update_snapshot

    taken = update_snapshot(source, registry)
    text = (
        f"{taken.advisories} advisories, the newest of {taken.newest:%Y-%m-%d}; "
        f"sha256 {taken.sha256}"
    )
    console.show(taken.model_dump(mode="json"), json, text)


@app.command()
def check(
    lock: Annotated[
        list[Path] | None,
        typer.Option(help="A lock file; repeatable. Default: this environment's own."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A verification policy. Default: the registry's.")
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Compare lock files with the snapshot. Exit 1 if the policy refuses what is found."""
    from flows.patches import CheckOptions
    from flows.patches import check as examine

    examined, rules = examine(CheckOptions(locks=tuple(lock or ()), policy=policy), registry)
    if json:
        console.show(examined.model_dump(mode="json"), True, "")
    else:
        _show(examined, rules)
    if not examined.passed:
        raise typer.Exit(1)


def _show(examined: Examined, policy: AdvisoryPolicy) -> None:
    from pipelines.advisories import decides

    rows = [
        [
            match.severity,
            f"{match.package} {match.version}",
            ", ".join(match.ids),
            ", ".join(match.fixed_in) or "no version yet",
            "refused" if decides(match, policy) else "noted",
            match.summary,
        ]
        for match in examined.matches
    ]
    title = f"Advisories: {'passed' if examined.passed else 'REFUSED'}"
    columns = ["severity", "package", "advisories", "fixed in", "policy", "summary"]
    console.show_table(title, columns, rows, {}, False)
    if examined.snapshot is not None:
        snapshot = examined.snapshot
        print(
            f"Snapshot: {snapshot.advisories} advisories from {snapshot.source}, "
            f"{examined.age_days:g} days old, sha256 {snapshot.sha256}"
        )
    print(f"Compared: {'; '.join(examined.compared)}")
    for line in (*examined.problems, *examined.accepted, *examined.notes):
        print(f"Note: {line}")
