"""The command line. Exit codes: 0 done or passed, 1 refused, 2 usage, 3 failed, 130 interrupted.

Prefect, torch and transformers are imported only inside the commands that need them, so that a DVC
stage does not pay for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from flows import (
    advisory_commands,
    batch_commands,
    console,
    cost_command,
    egress_command,
    evaluation_commands,
    model_commands,
    registry_commands,
    signing_command,
    suite_commands,
)
from flows.options import Registry
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
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])

_local = typer.Typer()


@_local.command()
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


@_local.command()
def demo(
    directory: Annotated[
        Path | None, typer.Argument(help="Default: demo/ in this project.")
    ] = None,
) -> None:
    """Run the whole chain on a small real model: onboard, tune, gate, promote, batch."""
    from flows.demo.run import DEMO, run_demo

    run_demo((directory or DEMO).absolute())


app.add_typer(registry_commands.app)
app.add_typer(model_commands.app)
app.add_typer(signing_command.app)
app.add_typer(evaluation_commands.app)
app.add_typer(_local)
app.add_typer(egress_command.app)
app.add_typer(cost_command.app)
app.add_typer(batch_commands.app, name="batch")
app.add_typer(advisory_commands.app, name="advisories")
app.add_typer(suite_commands.app, name="suites")


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
