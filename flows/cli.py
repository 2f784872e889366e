"""The command line. Exit codes: 0 done or passed, 1 refused, 2 usage, 3 failed, 130 interrupted.

Prefect, torch and transformers are imported only inside the commands that need them, so that a DVC
stage does not pay for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from flows import batch_commands, console
from pipelines.errors import NoSpaceLeft, WeighbridgeError, exit_code, is_disk_full

if TYPE_CHECKING:
    from flows.nightly_evaluation import NightRow
    from flows.reports import Onboarded

app = typer.Typer(
    name="weighbridge",
    help="Bring open-weight models into the company and keep those that earn it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Typer carries its own copy of click; a usage error's class is reached through the public one.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])

Registry = Annotated[
    Path | None,
    typer.Option(
        "--registry",
        "-r",
        help="The registry's folder. Default: WEIGHBRIDGE_REGISTRY, else the current folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Suites = Annotated[
    list[str] | None, typer.Option("--suite", "-s", help="A suite of the registry; repeatable.")
]
Purpose = Annotated[Literal["commercial", "research"], typer.Option(help="Declared use.")]
Convert = Annotated[
    Literal["as-is", "dequantise"], typer.Option(help="dequantise turns GGUF into safetensors.")
]
Include = Annotated[
    list[str] | None,
    typer.Option(help="Take only files like this, e.g. '*Q4_K_M.gguf'; repeatable."),
]
Exclude = Annotated[list[str] | None, typer.Option(help="Leave out files like this; repeatable.")]
BaseName = Annotated[
    str, typer.Option(help="For an adapter: the model that it changes. Default: the one it names.")
]
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


@app.command()
def add(
    reference: Annotated[str, typer.Argument(help="Where the weights come from.")],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call them.")],
    purpose: Purpose = "commercial",
    convert: Convert = "as-is",
    include: Include = None,
    exclude: Exclude = None,
    base: BaseName = "",
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Resolve a reference once and add it to models.yaml; nothing is ingested yet."""
    from flows.adding import add_reference
    from flows.parameters import ModelForm
    from pipelines.models_file import DeclaredUse
    from pipelines.references import check_name
    from pipelines.settings import load_settings

    model = ModelForm.model_validate(
        {
            "name": check_name(name),
            "reference": reference,
            "convert": convert,
            "include": include or (),
            "exclude": exclude or (),
            "base": base,
        }
    )
    use = DeclaredUse.model_validate({"purpose": purpose})
    added = add_reference(load_settings(registry), model, use)
    console.show(added, json, f"Added {name}: {added['reference']}")


@app.command()
def onboard(
    name: ModelName,
    reference: Annotated[str, typer.Option(help="Where a new model's weights come from.")] = "",
    suite: Suites = None,
    purpose: Purpose = "commercial",
    convert: Convert = "as-is",
    include: Include = None,
    exclude: Exclude = None,
    base: BaseName = "",
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Bring a model in: ingest, verify, sign, evaluate on the named suites."""
    with _flows(registry):
        from flows.onboard import onboard as flow
        from flows.parameters import ModelForm, UseForm

        model = ModelForm.model_validate(
            {
                "name": name,
                "reference": reference,
                "convert": convert,
                "include": include or (),
                "exclude": exclude or (),
                "base": base,
            }
        )
        done = flow(model, tuple(suite or ()), UseForm.model_validate({"purpose": purpose}))
    _show_onboarded(done, json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Any folder of weights; no registry is needed.")],
    manifest: Annotated[
        Path | None, typer.Option(help="Pinned files: JSON or sha256sum lines.")
    ] = None,
    use: Annotated[str, typer.Option(help="commercial, research, or a YAML file.")] = "commercial",
    policy: Annotated[Path | None, typer.Option(help="A verification policy.")] = None,
    json: Json = False,
) -> None:
    """Judge a folder: bytes, formats, structure, template, licence. Exit 1 if refused."""
    from flows.verifying import judge

    record = judge(folder, manifest, use, policy)
    rows = [[f.severity, f.rule, f.file, f.fact, f.remedy] for f in record.findings]
    title = f"{folder}: {'passed' if record.passed else 'REFUSED'}"
    columns = ["severity", "rule", "file", "fact", "remedy"]
    console.show_table(title, columns, rows, record.model_dump(mode="json"), json)
    if not record.passed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    names: Annotated[list[str] | None, typer.Argument(help="Models; default: all.")] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Evaluate whatever is out of date, as the nightly run does."""
    with _flows(registry):
        from flows.nightly_evaluation import nightly_evaluation as flow

        rows = cast("tuple[NightRow, ...]", flow(tuple(names or ())))
    data = {"evaluations": [row.model_dump() for row in rows]}
    cells = [[row.evaluation, row.outcome, row.detail] for row in rows]
    console.show_table("Evaluations", ["evaluation", "outcome", "detail"], cells, data, json)


@app.command()
def finetune(
    name: ModelName,
    base: Annotated[str, typer.Option(help="The model to tune.")],
    recipe: Annotated[str, typer.Option(help="recipes/NAME.yaml in the registry.")],
    dataset: Annotated[str, typer.Option(help="datasets/NAME in the registry.")],
    suite: Suites = None,
    release: Annotated[str, typer.Option(help="Also gate it for this release line.")] = "",
    policy: Annotated[str, typer.Option(help="policy/gates/NAME.yaml for the gate.")] = "default",
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Check the data, train an adapter, merge it, verify and evaluate the result."""
    with _flows(registry):
        from flows.finetune import finetune as flow
        from flows.parameters import GateForm, TuningForm

        rule = GateForm(release=release, policy=policy) if release else None
        tuning = TuningForm(name=name, recipe=recipe, dataset=dataset)
        done = flow(base, tuning, tuple(suite or ()), rule=rule)
    _show_onboarded(done, json)


@app.command()
def gate(
    name: ModelName,
    release: Annotated[str, typer.Option(help="The release line it wants to enter.")],
    policy: Annotated[str, typer.Option(help="policy/gates/NAME.yaml.")] = "default",
    baseline: Annotated[str, typer.Option(help="Compare with this model.")] = "",
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Compare a candidate with its pinned baseline. Exit 1 unless it passes."""
    with _flows(registry):
        from flows.gate import gate as flow
        from flows.parameters import GateForm

        verdict = flow(name, GateForm(release=release, policy=policy, baseline=baseline))
    rows = [[task.task, task.outcome, task.reason] for task in verdict.tasks]
    title = f"{name} against {verdict.baseline}: {verdict.outcome}"
    data = verdict.model_dump(mode="json")
    console.show_table(title, ["task", "outcome", "reason"], rows, data, json)
    if verdict.outcome != "pass":
        raise typer.Exit(1)


@app.command()
def promote(
    name: ModelName,
    stage: Annotated[Literal["production", "staging"], typer.Option()] = "production",
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Release a candidate with a current, passing verdict. Exit 1 with the reason if refused."""
    with _flows(registry):
        from flows.promote import promote as flow

        release = flow(name, stage)
    data = release.model_dump(mode="json")
    text = f"{release.release}@{release.stage} is {release.version}: {release.model}"
    console.show(data, json, text)


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Default: 4200, or a free one.")] = None,
    registry: Registry = None,
) -> None:
    """Open the Prefect UI on this registry: server, deployments and a worker, until Ctrl-C."""
    from flows.local import up as start
    from flows.local import wait_while_up
    from pipelines.settings import load_settings

    console.note("starting the Prefect server; the first start takes up to a minute")
    with start(load_settings(registry), port) as server:
        console.note(f"open {server.url} in a browser; Ctrl-C stops the server and the worker")
        wait_while_up(server)


@app.command()
def demo(
    directory: Annotated[
        Path | None, typer.Argument(help="Default: demo/ in this project.")
    ] = None,
) -> None:
    """Run the whole chain on a small real model: onboard, tune, gate, promote, batch."""
    from flows.demo.run import DEMO, run_demo

    run_demo((directory or DEMO).absolute())


app.add_typer(batch_commands.app, name="batch")


@contextmanager
def _flows(registry: Path | None) -> Iterator[None]:
    """A server to report to; anything that imports Prefect is imported inside."""
    from flows.local import reporting
    from pipelines.settings import load_settings

    with reporting(load_settings(registry)):
        yield


def _show_onboarded(done: Onboarded, json: bool) -> None:
    rows = [
        [record.suite, task.task, task.metric, f"{task.value:.3f}", str(task.items)]
        for record in done.evaluations
        for task in record.tasks
    ]
    title = f"{done.name}: weights {done.weight_digest}"
    columns = ["suite", "task", "metric", "value", "items"]
    console.show_table(title, columns, rows, done.model_dump(mode="json"), json)


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
