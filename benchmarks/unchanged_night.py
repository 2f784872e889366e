"""A night in which nothing changed, over 20 models: seconds a model, with a real Prefect server.

The models are a kilobyte each, and their stages are not run: their outputs are committed to DVC as
if they had been. What is measured is what a night costs that has only to find out that nothing is
due: the clone, DVC's status, the reading of records, and the report.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.measure import Measure

if TYPE_CHECKING:
    from flows.night_history import NightRow

MODELS, ITEMS = 20, 200
_NONE = "0" * 64


def measure() -> list[Measure]:
    """Wall seconds a model of the second of two unchanged nights."""
    from flows.server import clean_environment, running_server
    from pipelines.settings import load_settings

    with tempfile.TemporaryDirectory(prefix="weighbridge-night-") as made:
        base = Path(made)
        os.environ["DVC_SITE_CACHE_DIR"] = str(base / "site-cache")
        os.environ["WEIGHBRIDGE_REGISTRY"] = str(_registry(base))
        environ = clean_environment(base / "prefect", drop=("PREFECT_", "WEIGHBRIDGE_"))
        with running_server(base / "prefect", environ=environ) as server, server.connected():
            took = [_night() for _ in range(2)]
        assert load_settings().home.is_dir()
    return [
        Measure(
            name="night.unchanged_seconds_per_model",
            measured=took[-1] / MODELS,
            unit="s",
            target=10.0,
            better="lower",
        )
    ]


def _night() -> float:
    from flows.nightly_evaluation import nightly_evaluation

    began = time.monotonic()
    # Called, a flow returns the data of the state that it returned.
    rows = cast("tuple[NightRow, ...]", nightly_evaluation())
    seconds = time.monotonic() - began
    assert {row.outcome for row in rows} == {"current"}, rows
    assert len(rows) == MODELS
    return seconds


def _registry(base: Path) -> Path:
    from pipelines.models_edit import add_evaluations, add_model
    from pipelines.models_file import DeclaredUse, ModelEntry
    from pipelines.settings import load_settings
    from pipelines.store.registry import InitConfig, create_registry
    from pipelines.store.workspace import open_workspace

    tree = create_registry(
        InitConfig(
            registry=base / "registry", origin=base / "origin.git", remote=str(base / "remote")
        )
    )
    with open_workspace(load_settings(tree, {})) as workspace:
        for number in range(MODELS):
            name = f"model-{number:02}"
            entry = ModelEntry(reference=f"file:///weights#sha256={_NONE}")
            add_model(workspace.root, name, entry, DeclaredUse())
            add_evaluations(workspace.root, name, ["smoke"])
            _outputs(workspace.root, name)
        workspace.dvc("commit", "--force", "--quiet")
        workspace.dvc("push", "--quiet")
        workspace.publish("Twenty models")
    return tree


def _outputs(root: Path, name: str) -> None:
    """What ingest, verify and evaluate leave behind."""
    from pipelines.canonical import write_record
    from pipelines.digest import build_manifest, weight_digest
    from pipelines.records import LicenceDecision, ManifestRecord, VerificationRecord
    from pipelines.store.registry import Layout

    layout = Layout(root)
    layout.weights(name).mkdir(parents=True)
    (layout.weights(name) / "model.safetensors").write_bytes(name.encode() * 128)
    files = build_manifest(layout.weights(name))
    digest = weight_digest(files)
    manifest = ManifestRecord(
        name=name, weight_digest=digest, files=files, reference="file:///weights", code_digest=_NONE
    )
    write_record(layout.origin(name) / "manifest.json", manifest)
    licence = LicenceDecision(
        family="MIT", spdx="MIT", use="commercial", allowed=True, source="benchmark"
    )
    verification = VerificationRecord(
        name=name,
        weight_digest=digest,
        code_digest=_NONE,
        policy_sha256=_NONE,
        passed=True,
        findings=(),
        formats={"safetensors": 1},
        parameters=1,
        template_sha256="",
        licence=licence,
        statement="benchmark",
    )
    write_record(layout.verification(name) / "verification.json", verification)
    _evaluation(layout.evaluation(name, "smoke"), name, digest)


def _evaluation(folder: Path, name: str, digest: str) -> None:
    from evals.items import ItemResult, write_items
    from pipelines.canonical import sha256_bytes, write_record
    from pipelines.records import EvaluationRecord, TaskResult

    items = [
        ItemResult(
            task="task",
            doc_id=number,
            doc_hash=sha256_bytes(b"%d" % number),
            prompt_hash=_NONE,
            target_hash=_NONE,
            metric="acc",
            score=float(number % 2),
            answer="yes",
            gold="yes",
            item_id=str(number),
            prompt=f"question {number}",
        )
        for number in range(ITEMS)
    ]
    folder.mkdir(parents=True)
    task = TaskResult(
        task="task",
        metric="acc",
        higher_is_better=True,
        items=ITEMS,
        value=0.5,
        stderr=None,
        task_sha256=_NONE,
        data_sha256=_NONE,
    )
    record = EvaluationRecord(
        name=name,
        weight_digest=digest,
        suite="smoke",
        suite_sha256=_NONE,
        code_digest=_NONE,
        engine="none",
        dtype="float32",
        template_sha256="",
        tasks=(task,),
        items_sha256=write_items(folder / "items.parquet", items),
    )
    write_record(folder / "evaluation.json", record)


if __name__ == "__main__":
    for line in measure():
        print(line.line())
