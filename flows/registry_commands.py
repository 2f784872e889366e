"""Commands about a registry as a whole: make it, look into it, keep it in order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.options import Json, Registry, ReleaseName

app = typer.Typer()


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="New folder for the registry's work tree.")],
    origin: Annotated[
        Path | None, typer.Option(help="Bare git origin. Default: origin.git beside DIRECTORY.")
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(help="DVC remote: a folder or s3://…. Default: dvc-remote beside DIRECTORY."),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(help="URL of an S3 store that is not AWS. Default: AWS_ENDPOINT_URL.")
    ] = "",
    json: Json = False,
) -> None:
    """Make a registry: git and DVC, the release graph, policies, a suite and a signing key."""
    from pipelines.store.registry import InitConfig, create_registry

    root = directory.absolute()
    config = InitConfig(
        registry=root,
        origin=(origin or root.with_name("origin.git")).absolute(),
        remote=remote or str(root.with_name("dvc-remote")),
        endpoint=endpoint,
    )
    create_registry(config)
    console.show(config.model_dump(mode="json"), json, f"Registry made: {root}")


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="ingest, finetune, verify, evaluate or gate.")],
    item: Annotated[str, typer.Argument(help="The entry of models.yaml to run it for.")],
    json: Json = False,
) -> None:
    """Run one stage here and now, as `dvc repro` does. Run it from a registry's folder."""
    from flows.stage_command import run_stage
    from pipelines.subprocesses import die_with_parent

    die_with_parent()
    folder = run_stage(name, item, Path.cwd())
    console.show({"stage": f"{name}@{item}", "evidence": str(folder)}, json, f"Written: {folder}")


@app.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models whose weights to fetch too.")
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Bring this work tree up to date with origin, and fetch records and the named weights."""
    from pipelines.settings import load_settings
    from pipelines.store.pull import pull_registry

    settings = load_settings(registry)
    fetched = pull_registry(settings, names or [])
    text = f"Up to date; fetched {', '.join(fetched) or 'nothing'}"
    console.show({"fetched": fetched}, json, text)


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A model, or LINE@STAGE. Default: everything.")
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """What the registry knows: models, verdicts with their reasons, releases."""
    from flows.showing import overview, show_model, show_release
    from pipelines.settings import load_settings

    settings = load_settings(registry)
    if name is None:
        console.show_tables(overview(settings), json)
    elif "@" in name:
        console.show_tables(show_release(settings, name), json)
    else:
        console.show_tables(show_model(settings, name), json)


@app.command()
def audit(release: ReleaseName, registry: Registry = None, json: Json = False) -> None:
    """Prove a release again from the registry and the remote alone. Exit 1 if a check fails."""
    from pipelines.releases import audit as prove
    from pipelines.settings import load_settings

    result = prove(load_settings(registry), release)
    rows = [[c.check, "holds" if c.passed else "FAILS", c.fact] for c in result.checks]
    data = {"passed": result.passed, **result.model_dump(mode="json")}
    console.show_table(f"Audit of {release}", ["check", "result", "fact"], rows, data, json)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def doctor(
    accept: Annotated[
        bool, typer.Option("--accept", help="Name the installed code in the registry and push.")
    ] = False,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Compare installed code, environment and programs with what the registry names."""
    from flows.doctor import accept_code, examine
    from pipelines.settings import load_settings

    settings = load_settings(registry)
    if accept:
        accepted = accept_code(settings)
        text = f"Accepted: {', '.join(accepted) or 'no change'}"
        console.show({"accepted": accepted}, json, text)
        return
    findings = examine(settings)
    rows = [[f.check, "ok" if f.passed else "WRONG", f.fact] for f in findings]
    data = {"findings": [f.model_dump() for f in findings]}
    console.show_table("Doctor", ["check", "result", "fact"], rows, data, json)
    if not all(f.passed for f in findings):
        raise typer.Exit(1)


@app.command()
def upgrade(
    apply: Annotated[
        bool, typer.Option("--apply", help="Change and push; without it, only show.")
    ] = False,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Bring a registry that an earlier version made to the installed one: graph, code, defaults."""
    from pipelines.settings import load_settings
    from pipelines.store.upgrade import upgrade_registry

    changes = upgrade_registry(load_settings(registry), applying=apply)
    data = {"applied": apply, "changes": [change.model_dump() for change in changes]}
    if json:
        console.show(data, True, "")
        return
    if not changes:
        console.show(data, False, "Nothing to do: the registry is as the installed version has it.")
        return
    rows = [[change.path, change.kind, change.why] for change in changes]
    title = "Changed" if apply else "Would change (--apply does it)"
    console.show_table(title, ["file", "change", "why"], rows, data, False)
    for change in changes:
        if change.kind == "replaced" and change.diff:
            console.note(change.diff)


@app.command()
def gc(
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove; without it, only show.")
    ] = False,
    budget: Annotated[
        str, typer.Option(help="Remove the least recently used until the store fits, e.g. 200GB.")
    ] = "",
    older_than: Annotated[str, typer.Option(help="Grace period: 30m, 12h, 1d, 2w.")] = "1d",
    not_in_remote: Annotated[
        bool, typer.Option("--not-in-remote", help="Also what cannot be restored from the remote.")
    ] = False,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """What this machine's store keeps and why, and what may go. The remote is never touched."""
    from flows.collecting import collect_garbage, parse_config, tables
    from pipelines.settings import load_settings

    config = parse_config(budget, older_than, not_in_remote)
    collected = collect_garbage(load_settings(registry), config, removing=remove)
    if json:
        console.show(collected.model_dump(mode="json"), True, "")
        return
    console.print_tables(tables(collected))
