"""The control: a model whose evaluation is run again although nothing changed.

The stage's own command runs in a clone of its own with an empty home, so that no cache answers for
the model, and the clone is thrown away: neither dvc.lock nor the run cache learns of it. What came
out is kept in WEIGHBRIDGE_HOME.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from evals.drift import DriftReport, drift
from flows.night_history import nights_folder
from pipelines.models_file import load_models
from pipelines.settings import Settings
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace

KEPT = 30  # results of each control


def rescore(settings: Settings, key: str, night: str) -> DriftReport:
    """Score the evaluation `key` anew and compare it with the registry's record.

    Raises what the stage raised as CommandFailed, and what `drift` raises.
    """
    with open_workspace(settings) as workspace:
        entry = load_models(workspace.root).evaluations[key]
        folder = Layout(workspace.root).evaluation(entry.model, entry.suite)
        kept = nights_folder(settings) / "controls" / key
        recorded = kept / "recorded"
        workspace.current()  # links what the cache holds, the stage's inputs included
        layout, name = Layout(workspace.root), entry.model
        _restore(workspace, folder, layout.weights(name), layout.origin(name),
                 layout.verification(name))  # fmt: skip
        _copy(folder, recorded)
        home = Path(tempfile.mkdtemp(prefix="control-", dir=settings.home))
        try:
            workspace.dvc(
                "repro", "--force", "--no-run-cache", "--no-commit", "--single-item",
                f"evaluate@{key}", home=home,
            )  # fmt: skip
        finally:
            shutil.rmtree(home)
        rescored = kept / night
        _copy(folder, rescored)
        _forget(kept)
        return drift(recorded, rescored)


def _restore(workspace: Workspace, *outputs: Path) -> None:
    for path in outputs:
        if not path.is_dir():
            workspace.restore(path.relative_to(workspace.root).as_posix())


def _forget(kept: Path) -> None:
    """Drop the oldest results of a control; names are times, so they sort by age."""
    nights = sorted(path for path in kept.iterdir() if path.name != "recorded")
    for path in nights[:-KEPT]:
        shutil.rmtree(path)


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
