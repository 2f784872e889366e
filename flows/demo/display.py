"""The demo's progress: one line per finished step, and always what is happening now.

Every stage reports through Prefect's task logs; a log handler turns them into the display, so that
the terminal shows what the Prefect UI keeps.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_DONE = re.compile(r"^(?P<what>[a-z]+@\S+): (?P<outcome>ran|restored|unchanged)$")

_REPEATED = ("Encountered exception", "Finished in state", "Process for flow run")


class Display(logging.Handler):
    """Draws a bar over `steps` stages; where nobody looks at a terminal it prints plain lines."""

    def __init__(self, steps: int) -> None:
        super().__init__(logging.INFO)
        self.console = Console(highlight=False, width=None)
        self.began = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.total = self.bar.add_task("starting", total=steps)
        self.outcomes: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Show one log line: a finished stage for good, progress only while it lasts."""
        message = record.getMessage()
        if match := _DONE.match(message):
            self.outcomes[match["what"]] = match["outcome"]
            self.bar.advance(self.total)
            self.say(f"{match['what'].replace('@', ' '):36} {match['outcome']}")
        elif message.startswith(_REPEATED):
            return  # the error itself is shown once, at the end
        elif record.levelno >= logging.WARNING:
            self.say(message)
        elif record.name.startswith("prefect.task_runs"):
            self.now(message)

    def now(self, text: str) -> None:
        """What is happening at this moment."""
        self.bar.update(self.total, description=text[:72])
        if not self.console.is_terminal:
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        elapsed = time.monotonic() - self.began
        self.console.print(f"[{elapsed:5.0f} s] {text}", markup=False, soft_wrap=True)


@contextmanager
def showing(steps: int) -> Iterator[Display]:
    """Show Prefect's logs as a display instead of on the console."""
    from prefect.logging.configuration import setup_logging

    setup_logging()
    display = Display(steps)
    root = logging.getLogger()
    replaced = [handler for handler in root.handlers if "Console" in type(handler).__name__]
    for handler in replaced:
        root.removeHandler(handler)
    root.addHandler(display)
    try:
        with display.bar:
            yield display
    finally:
        root.removeHandler(display)
        for handler in replaced:
            root.addHandler(handler)
