"""Contamination and parity of a registry's models: what the commands of that name do."""

from __future__ import annotations

import tempfile
from pathlib import Path

from evals.contamination import WORDS, ContaminationRecord, contamination
from evals.evidence import ITEMS_FILE
from evals.items import read_items
from evals.parity import (
    AdapterParity,
    ParityReport,
    compare_adapter,
    compare_engines,
    judge,
    load_bounds,
)
from evals.scoring import ScoringConfig, score
from evals.suites import load_suite, suite_digest
from evals.training_sets import TrainingSet
from pipelines.canonical import write_record
from pipelines.code_digest import check_code
from pipelines.digest import check_digest
from pipelines.errors import ConfigError, NotVerified, UnknownName
from pipelines.models_file import load_models
from pipelines.records import ManifestRecord, TrainingRecord, VerificationRecord, read_record
from pipelines.settings import Settings, load_settings
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace

ENGINES = ("transformers", "vllm")


def check_contamination(
    datasets: tuple[str, ...], suite: str, words: int = WORDS, registry: Path | None = None
) -> ContaminationRecord:
    """Look for a suite's items in data sets; each is a folder, or a name in the registry.

    Raises UnknownName for what is neither, and what `contamination` raises.
    """
    sets = [
        TrainingSet(name=Path(name).name, folder=_folder("datasets", name, registry))
        for name in datasets
    ]
    return contamination(sets, _folder("suites", suite, registry), words)


def check_parity(name: str, suite: str, registry: Path | None = None) -> tuple[ParityReport, Path]:
    """Run a verified model of the registry on a suite with both engines and compare.

    For a model that was tuned here, base + adapter and merged weights are compared, too. The
    registry's policy/parity.yaml says what may differ. The report is also written to this machine's
    home; its path is returned. Raises UnknownName, NotVerified, DigestMismatch, ConfigError, and
    what `score` and `compare_engines` raise.
    """
    settings = load_settings(registry)
    with open_workspace(settings) as workspace:
        layout = Layout(workspace.root)
        folder = layout.root / "suites" / suite
        if not (folder / "suite.yaml").is_file():
            known = sorted(path.parent.name for path in layout.root.glob("suites/*/suite.yaml"))
            raise UnknownName(layout.root / "suites", "suite", suite, known)
        config = _config(workspace, name, suite, folder)
        weights = layout.weights(name)
        with tempfile.TemporaryDirectory(prefix="weighbridge-parity-") as made:
            outs = []
            for engine in ENGINES:
                outs.append(Path(made) / engine)
                chosen = config.model_copy(update={"engine": engine})
                score(chosen, weights, folder, outs[-1], settings.home / "evaluation-blocks")
            engines = compare_engines(outs[0], outs[1])
            adapter = _adapter_parity(workspace, name, outs[0])
        bounds = load_bounds(layout.root / "policy" / "parity.yaml")
    report = ParityReport(
        name=name,
        weight_digest=config.weight_digest,
        suite=suite,
        suite_sha256=config.suite_sha256,
        bounds=bounds,
        engines=engines,
        adapter=adapter,
        findings=judge(bounds, engines, adapter),
    )
    path = settings.home / "parity" / name / f"{suite}.json"
    write_record(path, report)
    return report, path


def _folder(kind: str, name: str, registry: Path | None) -> Path:
    if Path(name).is_dir():
        return Path(name)
    tree = _tree(load_settings(registry))
    found = tree / kind / name
    if not found.is_dir():
        known = sorted(path.name for path in (tree / kind).glob("[!.]*/"))
        raise UnknownName(tree / kind, kind.removesuffix("s"), name, known)
    return found


def _tree(settings: Settings) -> Path:
    if settings.work_tree is None:
        raise ConfigError(
            settings.origin, "it is no work tree, and data are read from one", "Clone it first."
        )
    return settings.work_tree


def _config(workspace: Workspace, name: str, suite: str, folder: Path) -> ScoringConfig:
    layout = Layout(workspace.root)
    models = load_models(workspace.root)
    if name not in models.uses:
        raise UnknownName("models.yaml", "model", name, sorted(models.uses))
    wanted = (layout.weights(name), layout.origin(name), layout.verification(name))
    workspace.restore(*(path.relative_to(workspace.root).as_posix() for path in wanted))
    manifest = read_record(layout.origin(name) / "manifest.json", ManifestRecord)
    verified = read_record(layout.verification(name) / "verification.json", VerificationRecord)
    if not verified.passed or verified.weight_digest != manifest.weight_digest:
        raise NotVerified(name, [f"verified: {verified.weight_digest}, passed: {verified.passed}"])
    check_digest(layout.weights(name), manifest.weight_digest)
    return ScoringConfig(
        name=name,
        weight_digest=manifest.weight_digest,
        template_sha256=verified.template_sha256,
        suite_name=suite,
        suite_sha256=suite_digest(folder),
        code_digest=check_code(workspace.root, "evaluate"),
        engine=load_suite(folder).engine,
    )


def _adapter_parity(workspace: Workspace, name: str, scored: Path) -> AdapterParity | None:
    layout = Layout(workspace.root)
    record = layout.origin(name) / "training.json"
    if not record.is_file():
        return None
    training = read_record(record, TrainingRecord)
    workspace.restore(f"models/{training.base}")
    check_digest(layout.weights(training.base), training.base_digest)
    return compare_adapter(
        layout.weights(training.base),
        layout.origin(name) / "adapter",
        layout.weights(name),
        read_items(scored / ITEMS_FILE),
    )
