"""Commands about one model: from a reference to a release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from flows import console
from flows.options import (
    BaseName,
    Convert,
    Exclude,
    Include,
    Json,
    ModelName,
    Purpose,
    Registry,
    Suites,
)

if TYPE_CHECKING:
    from flows.night_history import NightRow
    from flows.parameters import ModelForm
    from flows.reports import Onboarded
    from flows.verifying import Verified
    from pipelines.records import Verdict

app = typer.Typer()

_STORED = {
    "same": "the registry's own record is what these bytes give",
    "differs": "the registry's own record is NOT what these bytes give: run the stage verify again",
    "none": "the registry holds no verification of this model yet",
}


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
    from pipelines.models_file import DeclaredUse
    from pipelines.settings import load_settings

    model = _model_form(
        name=name, reference=reference, convert=convert, include=include, exclude=exclude, base=base
    )
    use = DeclaredUse.model_validate({"purpose": purpose})
    added = add_reference(load_settings(registry), model, use)
    console.show(added, json, f"Added {name}: {added['reference']}")
    console.note("`weighbridge pull` brings this work tree up to date")


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
        from flows.parameters import UseForm

        model = _model_form(
            name=name, reference=reference, convert=convert,
            include=include, exclude=exclude, base=base,
        )  # fmt: skip
        done = flow(model, tuple(suite or ()), UseForm.model_validate({"purpose": purpose}))
    _show_onboarded(done, json)


@app.command()
def verify(
    target: Annotated[
        str, typer.Argument(metavar="PATH|NAME", help="A folder, or a model of the registry.")
    ],
    manifest: Annotated[
        Path | None, typer.Option(help="Pinned files: JSON or sha256sum lines.")
    ] = None,
    use: Annotated[
        str | None, typer.Option(help="commercial (default), research, or a YAML file.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A verification policy.")] = None,
    waivers: Annotated[Path | None, typer.Option(help="A file of waivers.")] = None,
    base: Annotated[
        Path | None, typer.Option(help="The model it was made from: show what differs.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for record, report, ML-BOM and NOTICE.")
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Judge weights: bytes, formats, structure, template, licence. Exit 0 only if they pass.

    A folder is judged as it lies there. The name of a model proves the registry's own record again,
    from the bytes in its store.
    """
    from flows.verifying import FolderOptions, judge_or_refuse
    from pipelines.errors import NotJudged

    options = FolderOptions(
        manifest=manifest, use=use, policy=policy, waivers=waivers, base=base, out=out
    )
    try:
        verified = judge_or_refuse(target, options, registry)
    except NotJudged as error:
        if json:
            console.show({"passed": False, "target": target, "problem": error.fact}, True, "")
        raise
    _show_verified(verified, json)


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
    name: Annotated[str | None, typer.Argument(help="A name in models.yaml.")] = None,
    release: Annotated[str, typer.Option(help="The release line it wants to enter.")] = "",
    policy: Annotated[
        str, typer.Option(help="policy/gates/NAME.yaml; with --candidate, a file.")
    ] = "default",
    baseline: Annotated[
        str, typer.Option(help="Compare with this model; with --candidate, a folder.")
    ] = "",
    candidate: Annotated[
        Path | None,
        typer.Option(help="Without a registry: lm-eval's samples, or an evidence folder."),
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Compare a candidate with its baseline, item by item. Exit 1 unless it passes.

    With --candidate and --baseline it decides from two folders of per-item results, offline; exit 3
    where these cannot carry a verdict.
    """
    if candidate is not None:
        if name or release or not baseline:
            raise typer.BadParameter("give --candidate, --baseline and --policy, and nothing else")
        from flows.verdicts import judge_folders

        verdict = judge_folders(candidate, Path(baseline), Path(policy), json)
    else:
        if not (name and release):
            raise typer.BadParameter("give a NAME and --release, or --candidate and --baseline")
        with _flows(registry):
            from flows.gate import gate as flow
            from flows.parameters import GateForm

            verdict = flow(name, GateForm(release=release, policy=policy, baseline=baseline))
    _show_verdict(verdict, json)


def _show_verdict(verdict: Verdict, json: bool) -> None:
    from flows.verdicts import show_verdict

    show_verdict(verdict, json)
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


def _model_form(**said: Any) -> ModelForm:
    """The same as the form in the Prefect UI; an option that was not given has its default."""
    from flows.parameters import ModelForm
    from pipelines.references import check_name

    check_name(said["name"])
    return ModelForm.model_validate(
        {key: value for key, value in said.items() if value is not None}
    )


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


def _show_verified(verified: Verified, json: bool) -> None:
    record = verified.record
    found = [*record.findings, *verified.lineage]
    rows = [[f.severity, f.rule, f.file, f.fact, f.remedy] for f in found]
    title = f"{record.name}: {'passed' if verified.passed else 'REFUSED'}"
    columns = ["severity", "rule", "file", "fact", "remedy"]
    console.note(f"verified {verified.taken}")
    data = record.model_dump(mode="json")
    if verified.stored is not None:
        data["stored"] = verified.stored
        data["lineage"] = [finding.model_dump(mode="json") for finding in verified.lineage]
    console.show_table(title, columns, rows, data, json)
    if verified.stored is not None:
        console.note(_STORED[verified.stored])
    if not verified.passed:
        raise typer.Exit(1)
