"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

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
    Literal["as-is", "dequantise", "depickle"],
    typer.Option(
        help="dequantise turns GGUF into safetensors; depickle PyTorch pickles, if policy lets it."
    ),
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
