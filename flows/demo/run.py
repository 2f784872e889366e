"""`weighbridge demo`: one model, all the way to production and into a batch job.

Everything is made in one folder: a registry with its origin and DVC remote, a Prefect database, the
corpus and the results. Nothing outside it is touched; inherited settings of Prefect, DVC and AWS
are dropped. Run again, it reuses what is there; killed, it goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import Table, print_tables
from flows.demo.content import LINE, fill_registry, question
from flows.demo.corpus import build_corpus
from flows.demo.packages import SMOLLM2
from flows.doctor import accept_code
from flows.server import clean_environment, running_server
from pipelines.batch.records import BatchManifest
from pipelines.code_digest import PROJECT
from pipelines.errors import Busy
from pipelines.settings import Settings, is_registry, load_settings
from pipelines.store.pull import pull_registry
from pipelines.store.registry import InitConfig, create_registry

if TYPE_CHECKING:
    from flows.reports import ReleaseReport  # imports Prefect, which reads its settings at import

DEMO = PROJECT / "demo"
DROPPED = ("PREFECT_", "DVC_", "AWS_", "WEIGHBRIDGE_", "HF_")
BASE, GOOD, BAD = "smollm2", "smollm2-triage", "smollm2-shuffled"
# ingest, then per model verify and two evaluations, per candidate finetune and gate
STEPS = 1 + 3 * 3 + 2 * 2


def run_demo(folder: Path) -> None:
    """Make or continue the demo in `folder` and print what came of it.

    Raises Busy when another demo runs there, and whatever a stage raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        registry = folder / "registry"
        _isolate(registry)
        began = time.monotonic()
        _make_registry(folder, registry)
        build_corpus(folder / "corpus")
        settings = load_settings(registry)
        report = _run_chain(settings, folder)
        pull_registry(settings, [])
        _show(report, folder, time.monotonic() - began)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = f"another demo (process {lock.read().strip() or 'unknown'})"
            raise Busy(str(folder), holder) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _isolate(registry: Path) -> None:
    """This process's environment from here on: the demo's own, before Prefect is imported."""
    home = registry / ".weighbridge"
    environ = clean_environment(home / "prefect", drop=DROPPED)
    os.environ.clear()
    os.environ.update(environ)
    os.environ["WEIGHBRIDGE_REGISTRY"] = str(registry)
    os.environ["DVC_SITE_CACHE_DIR"] = str(registry.parent / "dvc-site-cache")
    os.environ["GIT_CONFIG_GLOBAL"] = os.devnull


def _make_registry(folder: Path, registry: Path) -> None:
    """Make the registry once; what an interrupted first run left is made anew.

    The demo's registry follows the installed code: whoever edits Weighbridge and runs the demo
    again wants to see exactly the stages run that their edit made stale.
    """
    if is_registry(registry):
        accept_code(load_settings(registry))
        return
    print("Making the demo's registry (git, DVC, suites, data, policy)", flush=True)
    for name in ("registry", "origin.git", "dvc-remote"):
        shutil.rmtree(folder / name, ignore_errors=True)
    create_registry(
        InitConfig(
            registry=registry,
            origin=folder / "origin.git",
            remote=str(folder / "dvc-remote"),
        ),
        lambda root: fill_registry(root, folder / "downloads"),
    )


def _run_chain(settings: Settings, folder: Path) -> ReleaseReport:
    """One run of the release flow, reported to the demo's own Prefect server."""
    from flows.demo.display import showing
    from flows.parameters import (
        BatchForm,
        DocumentsForm,
        GateForm,
        JobForm,
        ModelForm,
        QuestionForm,
        TuningForm,
    )
    from flows.release import release

    # Parts as long as the notices that the model was tuned on, from where a text says what it is.
    documents = DocumentsForm(
        path=str(folder / "corpus"), classification="public", part_tokens=128, first_parts=3
    )
    with showing(STEPS) as display:
        display.now("starting the Prefect server")
        with running_server(settings.home / "prefect", environ=os.environ) as server:
            display.say(f"Prefect UI while this runs: {server.url}")
            with server.connected():
                return release(
                    base=ModelForm(name=BASE, reference=SMOLLM2, convert="dequantise"),
                    candidates=(
                        TuningForm(name=BAD, recipe=LINE, dataset=f"{LINE}-shuffled"),
                        TuningForm(name=GOOD, recipe=LINE, dataset=LINE),
                    ),
                    suites=("general", LINE),
                    rule=GateForm(release=LINE, policy="demo"),
                    batch=BatchForm(
                        documents=documents,
                        question=QuestionForm.model_validate(question()),
                        job=JobForm(model=f"{LINE}@production", name="package-licences"),
                    ),
                )


def _show(report: ReleaseReport, folder: Path, elapsed_s: float) -> None:
    """The table that the demo ends with, and where everything is."""
    tasks = tuple(
        (candidate.name, candidate.outcome, task.task, task.outcome, task.reason)
        for candidate in report.candidates
        for task in (candidate.verdict.tasks if candidate.verdict else ())
    )
    columns = ("candidate", "outcome", "task", "task's outcome", "reason")
    print_tables([Table(title="Verdicts", columns=columns, rows=tasks)])
    for candidate in report.candidates:
        print(f"{candidate.name}: {candidate.outcome}")
    release, home = report.release, folder / "registry"
    if release is not None:
        print(f"{release.release}@{release.stage} is {release.version}: {release.model},")
        print(f"  weights {release.weight_digest}")
    print(f"Registry:      {home}")
    print(f"Evidence:      {home / 'evidence'} (report.md in each folder)")
    print(f"Corpus:        {folder / 'corpus'}")
    if report.batch_output:
        manifest = BatchManifest.model_validate_json(
            (Path(report.batch_output) / "manifest.json").read_bytes()
        )
        print(
            f"Batch job:     {report.batch_output}\n"
            f"               {manifest.documents} documents, {manifest.rows} rows, "
            f"{manifest.rows_ok} answered, {manifest.rows - manifest.rows_ok} with an error"
        )
    print(f"Done in {elapsed_s:.0f} s. To look at it all in the Prefect UI:")
    print(f"  .venv/bin/weighbridge up --registry {os.path.relpath(home)}")
