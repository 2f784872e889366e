"""The command line. Exit codes: 0 done or passed, 1 refused, 2 usage, 3 failed, 130 interrupted.

Prefect, torch and transformers are imported only inside the commands that need them, so that a DVC
stage does not pay for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows import console
from pipelines.errors import NoSpaceLeft, WeighbridgeError, exit_code, is_disk_full

app = typer.Typer(
    name="weighbridge",
    help="Bring open-weight models into the company and keep those that earn it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Typer carries its own copy of click; a usage error's class is reached through the public one.
_UsageError = typer.BadParameter.__mro__[1]

Registry = Annotated[
    Path | None,
    typer.Option(
        "--registry",
        "-r",
        help="The registry's folder. Default: WEIGHBRIDGE_REGISTRY, else the current folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ModelName = Annotated[str, typer.Argument(help="A name in models.yaml.")]
ReleaseName = Annotated[str, typer.Argument(help="LINE@STAGE, e.g. licence-triage@production.")]


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
    json: Json = False,
) -> None:
    """Make a registry: git and DVC, the release graph, policies, a suite and a signing key."""
    from pipelines.store.registry import InitConfig, create_registry

    root = directory.absolute()
    config = InitConfig(
        registry=root,
        origin=(origin or root.with_name("origin.git")).absolute(),
        remote=remote or str(root.with_name("dvc-remote")),
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
    names: Annotated[list[str] | None, typer.Argument(help="Models; default: records only.")] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Bring this work tree up to date with origin, and fetch records and the named weights."""
    from pipelines.settings import load_settings
    from pipelines.store.pull import pull_registry

    settings = load_settings(registry)
    fetched = pull_registry(settings, names or [])
    console.show({"fetched": fetched}, json, f"Up to date; fetched {', '.join(fetched) or 'nothing'}")


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
    rows = [[check.check, "holds" if check.passed else "FAILS", check.fact] for check in result.checks]
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
        console.show({"accepted": accepted}, json, f"Accepted: {', '.join(accepted) or 'no change'}")
        return
    findings = examine(settings)
    rows = [[f.check, "ok" if f.passed else "WRONG", f.fact] for f in findings]
    data = {"findings": [f.model_dump() for f in findings]}
    console.show_table("Doctor", ["check", "result", "fact"], rows, data, json)
    if not all(f.passed for f in findings):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: every error of ours becomes its message and its exit code, nothing more."""
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        error.show()
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        console.complain("interrupted; run the same command again to go on")
        code = 130
    except WeighbridgeError as error:
        console.complain(str(error))
        code = exit_code(error)
    except OSError as error:
        if not is_disk_full(error):
            raise
        full = NoSpaceLeft(error.filename or Path.cwd())
        console.complain(str(full))
        code = exit_code(full)
    sys.exit(code)


if __name__ == "__main__":
    main()
