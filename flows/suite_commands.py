"""`weighbridge suites …`: what is there to evaluate on, and how to add to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import console
from flows.options import Json, Registry

app = typer.Typer(
    help="Suites: list them, check them, make one from a table of questions.",
    no_args_is_help=True,
)

SuiteName = Annotated[str, typer.Argument(help="The suite's name.")]


@app.command(name="ls")
def list_suites(registry: Registry = None, json: Json = False) -> None:
    """The registry's suites and the shipped ones: tasks, items, engine, licence of the data."""
    from evals.suite_listing import list_suites as listing

    tasks = listing(_work_tree(registry))
    rows = [
        [t.suite, t.place, t.task or t.problem, str(t.items or ""), t.metric, t.engine, t.licence]
        for t in tasks
    ]
    columns = ["suite", "where", "task", "items", "metric", "engine", "licence"]
    data = [task.model_dump(mode="json") for task in tasks]
    console.show_table("Suites", columns, rows, data, json)


@app.command()
def validate(
    suite: Annotated[str, typer.Argument(help="A suite's name, or its folder.")],
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Check a suite as far as can be without a model. Exit 1 with every fact against it."""
    from evals.suite_listing import find_suite, suite_facts

    folder = find_suite(suite, _work_tree(registry))
    facts = suite_facts(folder)
    text = "\n".join(facts) if facts else f"Valid: {folder}"
    console.show({"folder": str(folder), "facts": facts}, json, text)
    if facts:
        raise typer.Exit(1)


@app.command()
def new(
    name: SuiteName,
    source: Annotated[
        Path, typer.Option("--from", help="Questions: .csv, .tsv or .jsonl, one item a row.")
    ],
    question: Annotated[str, typer.Option(help="Its column. Default: question, prompt, …")] = "",
    answer: Annotated[str, typer.Option(help="Its column. Default: answer, label, …")] = "",
    choices: Annotated[
        list[str] | None,
        typer.Option(help="A column with a list, or (repeated) one column a choice."),
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option("--slice", help="A column to report by; repeatable.")
    ] = None,
    id_column: Annotated[str, typer.Option("--id", help="Default: id; else numbered.")] = "",
    engine: Annotated[
        Literal["transformers", "vllm"], typer.Option(help="What runs the model.")
    ] = "transformers",
    chat_template: Annotated[
        bool, typer.Option(help="Whether the model's chat template is applied.")
    ] = True,
    description: Annotated[str, typer.Option(help="One sentence for suite.yaml.")] = "",
    licence: Annotated[str, typer.Option(help="Of the data, SPDX: CC-BY-4.0, …")] = "",
    into: Annotated[
        Path | None, typer.Option(help="Make NAME in this folder. Default: the registry's suites/.")
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Make a suite from a table of questions and answers, ready to validate and to run."""
    from evals.suite_columns import Columns
    from evals.suite_writing import NewSuite, write_suite

    wanted = NewSuite(
        name=name,
        source=source,
        columns=Columns(
            id=id_column,
            question=question,
            answer=answer,
            choices=tuple(choices or ()),
            slices=tuple(slices or ()),
        ),
        engine=engine,
        chat_template=chat_template,
        description=description,
        licence=licence,
    )
    written = write_suite(wanted, into or _registry(registry) / "suites")
    kinds = {
        "choices": "each item with its own choices, answered by letter",
        "labels": "one of a few labels",
        "words": "answered in words, compared as text",
    }
    used = written.columns
    text = (
        f"Made: {written.folder}\n"
        f"  {written.items} items, {kinds[written.kind]}\n"
        f"  question: {used.question}; answer: {used.answer}; "
        f"slices: {', '.join(used.slices) or 'none'}\n"
        "Look at an item or two, then commit and push the folder."
    )
    console.show(written.model_dump(mode="json"), json, text)


@app.command()
def add(name: SuiteName, registry: Registry = None, json: Json = False) -> None:
    """Copy a suite that ships with Weighbridge into the registry's work tree."""
    from evals.suite_listing import add_shipped

    root = _registry(registry)
    added = add_shipped(name, root)
    folder = root / "suites" / name
    text = f"Added: {folder}\nCommit and push it." if added else f"There already: {folder}"
    console.show({"folder": str(folder), "added": added}, json, text)


def _registry(registry: Path | None) -> Path:
    """The work tree to write to; raises NotARegistry when there is none here."""
    from pipelines.errors import NotARegistry
    from pipelines.settings import load_settings

    tree = load_settings(registry).work_tree
    if tree is None:
        raise NotARegistry(Path.cwd())
    return tree


def _work_tree(registry: Path | None) -> Path | None:
    """The registry's work tree where one is named or here; shipped suites need none."""
    from pipelines.errors import NotARegistry
    from pipelines.settings import load_settings

    try:
        return load_settings(registry).work_tree
    except NotARegistry:
        if registry is not None:
            raise
        return None
