"""The only caller of dvc. DVC is an address book here; what bytes are is told by our own sha256."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipelines.errors import Busy, CommandFailed
from pipelines.progress import PROGRESS_VARIABLE
from pipelines.store.remote import remote_failure
from pipelines.subprocesses import OnLine, run

StageOutcome = Literal["ran", "restored", "unchanged"]

# Links first: with "reflink" first, DVC copies a stage's output into the cache and keeps both
# copies on file systems without reflinks (dvc_data.hashfile.checkout calls a copy as good). With
# this order it still makes reflinks of outputs where it can, and links, not copies, elsewhere.
CACHE_TYPE = "hardlink,copy"
# DVC's own default is four transfers a core, each with a buffer of up to 50 MiB.
S3_JOBS = 8


def dvc_environment(site_cache: Path | None = None) -> dict[str, str]:
    """The environment for dvc and the stages it starts: our own programs come first on PATH."""
    environ = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    # Without bytecode on the disk, each dvc command compiles a thousand modules: a second of CPU.
    # The variable is common in container images; where nothing may be written, Python goes on.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    if site_cache is not None:
        environ["DVC_SITE_CACHE_DIR"] = str(site_cache)
    return environ


class Dvc:
    """dvc in one work tree, with its own state database when `site_cache` is given."""

    def __init__(self, tree: Path, site_cache: Path | None = None) -> None:
        self.tree = tree
        self.environ = dvc_environment(site_cache)

    def __call__(
        self, *arguments: str, on_line: OnLine | None = None, home: Path | None = None
    ) -> str:
        """Run dvc and return what it printed; raises Busy, RemoteFailed or CommandFailed."""
        environ = dict(self.environ)
        if home is not None:
            environ["WEIGHBRIDGE_HOME"] = str(home)
        if on_line is not None:
            environ[PROGRESS_VARIABLE] = "json"
        argv = [sys.executable, "-m", "dvc", *arguments]
        try:
            return run(argv, cwd=self.tree, env=environ, on_line=on_line).stdout
        except CommandFailed as error:
            if "is busy, it is being blocked by" in error.output:
                raise Busy(str(self.tree), _blocker(error.output)) from error
            if failure := remote_failure(error.output):
                raise failure from error
            raise

    def settings(self) -> dict[str, str]:
        """DVC's configuration of this tree, as `section.name` (`remote.store.url`) to value."""
        pairs = (line.partition("=") for line in self("config", "--list").splitlines())
        return {key: value for key, _, value in pairs}

    def changes(self, targets: Sequence[str] = (), *, with_deps: bool = False) -> dict[str, str]:
        """Stages that DVC calls changed, each with what changed; empty means up to date."""
        flags = ["--json", *(["--with-deps"] if with_deps else [])]
        output = self("status", *flags, *targets)
        status = json.loads(output[output.index("{") :])
        return {stage: _describe(causes) for stage, causes in status.items()}

    def reproduce(self, instance: str, home: Path, on_line: OnLine | None = None) -> StageOutcome:
        """Run one stage instance, or restore it from the run cache, or find it unchanged."""
        output = self(
            "repro", "--pull", "--allow-missing", "--single-item", instance,
            on_line=on_line, home=home,
        )  # fmt: skip
        if f"Running stage '{instance}'" in output:
            return "ran"
        if "is cached - skipping run" in output:
            return "restored"
        return "unchanged"


def _blocker(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if "PID" in line]
    return lines[0] if lines else "another dvc process"


def _describe(causes: object) -> str:
    """Flatten one stage of `dvc status --json`: paths with 'modified', 'deleted' and so on."""
    found: list[str] = []

    def walk(value: object, path: str = "") -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, str(key))
        elif isinstance(value, list):
            for inner in value:
                walk(inner, path)
        else:
            found.append(f"{path} {value}" if path else str(value))

    walk(causes)
    return ", ".join(found)
