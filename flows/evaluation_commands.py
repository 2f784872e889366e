"""`weighbridge contamination` and `weighbridge parity`: checks of what an evaluation rests on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.options import Json, ModelName, Registry

if TYPE_CHECKING:
    from evals.parity import ParityReport

app = typer.Typer()


@app.command()
def contamination(
    suite: Annotated[
        str, typer.Option("--suite", "-s", help="A suite of the registry, or a folder.")
    ],
    dataset: Annotated[
        list[str],
        typer.Option("--dataset", "-d", help="A data set of the registry or a folder; repeatable."),
    ],
    words: Annotated[int, typer.Option(min=2, help="Words in a row that count as shared.")] = 13,
    max_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit 1 if a task's share is larger.")
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Which items of a suite stand in training data, word for word."""
    from evals.evaluation_report import contamination_lines
    from flows.evaluation_checks import check_contamination

    found = check_contamination(tuple(dataset), suite, words, registry)
    data = {**found.model_dump(mode="json"), "share": found.share}
    console.show(data, json, "\n".join(contamination_lines(found)))
    if max_share is not None and found.share > max_share:
        raise typer.Exit(1)


@app.command()
def parity(
    name: ModelName,
    suite: Annotated[str, typer.Option("--suite", "-s", help="A suite of the registry.")],
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Run a model with transformers and with vLLM, and say where they differ. Exit 1 beyond policy.

    For a model that was tuned here, also base + adapter against the merged weights.
    """
    from flows.evaluation_checks import check_parity

    report, path = check_parity(name, suite, registry)
    console.show(report.model_dump(mode="json"), json, _parity_text(report, path))
    if report.findings:
        raise typer.Exit(1)


def _parity_text(report: ParityReport, path: Path) -> str:
    outcome = "REFUSED" if report.findings else "passed"
    lines = [f"Parity of {report.name} on {report.suite}: {outcome}"]
    if (engines := report.engines) is not None:
        lines.append(
            f"{engines.engines[0]} and {engines.engines[1]}: {len(engines.disagreeing)} of "
            f"{engines.items} items scored differently"
        )
        if engines.mean_difference_nats is not None:
            lines.append(
                f"  log likelihoods differ by {engines.mean_difference_nats:g} nats on average, "
                f"{engines.largest_difference_nats:g} at most"
            )
    if (adapter := report.adapter) is not None:
        lines.append(
            f"base + adapter and merged weights: {adapter.largest_difference_nats:g} nats at most "
            f"on any token of {adapter.prompts} prompts"
        )
    lines += [f"Refused: {finding.fact}. {finding.remedy}" for finding in report.findings]
    return "\n".join([*lines, f"Report: {path}"])
