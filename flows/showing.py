"""`weighbridge show`: what the registry knows, read from records that git and DVC hold."""

from __future__ import annotations

from pathlib import Path

from flows.console import Table
from pipelines.errors import NotARegistry, UnknownName
from pipelines.models_file import load_models
from pipelines.records import (
    EvaluationRecord,
    ManifestRecord,
    RecordT,
    Verdict,
    VerificationRecord,
    read_record,
)
from pipelines.releases import read_release, release_commit
from pipelines.settings import Settings
from pipelines.store import git, tags
from pipelines.store.registry import Layout


def overview(settings: Settings) -> list[Table]:
    """Every model with what is known about it, and every release that holds."""
    tree = _tree(settings)
    layout, models = Layout(tree), load_models(tree)
    rows = []
    for name in models.weights():
        manifest = _read(layout.origin(name) / "manifest.json", ManifestRecord)
        verification = _read(layout.verification(name) / "verification.json", VerificationRecord)
        verdict = _read(layout.verdict(name) / "verdict.json", Verdict)
        rows.append(
            (
                name,
                manifest.weight_digest[:12] if manifest else "not here",
                _passed(verification),
                verification.licence.family if verification else "",
                verdict.outcome if verdict else "no verdict",
            )
        )
    return [
        Table(
            title="Models",
            columns=("name", "weight digest", "verified", "licence", "verdict"),
            rows=tuple(rows),
        ),
        _releases(tree),
    ]


def show_model(settings: Settings, name: str) -> list[Table]:
    """One model: where it came from, findings, scores and the gate's reasons."""
    tree = _tree(settings)
    layout, models = Layout(tree), load_models(tree)
    if name not in models.weights():
        raise UnknownName(tree / "models.yaml", "model or tuning", name, models.weights())
    manifest = _read(layout.origin(name) / "manifest.json", ManifestRecord)
    verification = _read(layout.verification(name) / "verification.json", VerificationRecord)
    verdict = _read(layout.verdict(name) / "verdict.json", Verdict)
    facts = [("weights", "not here: run `weighbridge onboard` or `weighbridge pull`")]
    if manifest:
        facts = [("weight digest", manifest.weight_digest), ("reference", manifest.reference)]
    facts.append(("verified", _passed(verification)))
    tables = [Table(title=name, columns=("fact", "value"), rows=tuple(facts))]
    if verification:
        found = tuple((f.severity, f.rule, f.file, f.fact, f.remedy) for f in verification.findings)
        columns = ("severity", "rule", "file", "fact", "remedy")
        tables.append(Table(title="Findings", columns=columns, rows=found))
    scores = []
    for key in models.evaluations_of(name):
        suite = models.evaluations[key].suite
        record = _read(layout.evaluation(name, suite) / "evaluation.json", EvaluationRecord)
        scores += [
            (suite, task.task, task.metric, f"{task.value:.3f}", str(task.items))
            for task in (record.tasks if record else ())
        ]
    columns = ("suite", "task", "metric", "value", "items")
    tables.append(Table(title="Evaluations", columns=columns, rows=tuple(scores)))
    if verdict:
        reasons = tuple((task.task, task.outcome, task.reason) for task in verdict.tasks)
        title = f"Verdict: {verdict.outcome} against {verdict.baseline}"
        tables.append(Table(title=title, columns=("task", "outcome", "reason"), rows=reasons))
    return tables


def show_release(settings: Settings, name: str) -> list[Table]:
    """One release record, its signature checked."""
    tree = _tree(settings)
    release = read_release(tree, release_commit(tree, name), name)
    rows = tuple(
        (key, str(value) if not isinstance(value, list) else f"{len(value)} entries")
        for key, value in release.model_dump(mode="json").items()
    )
    return [Table(title=f"Release {name}", columns=("fact", "value"), rows=rows)]


def _releases(tree: Path) -> Table:
    rows = []
    for line, stage in tags.stages_of(tree):
        held = tags.assignment(tree, line, stage)
        if held is None:
            continue
        release = read_release(tree, held.commit, f"{line}@{stage}")
        rows.append((f"{line}@{stage}", release.version, release.model, release.weight_digest[:12]))
    columns = ("release", "version", "model", "weight digest")
    return Table(title="Releases", columns=columns, rows=tuple(rows))


def _tree(settings: Settings) -> Path:
    if settings.work_tree is None:
        raise NotARegistry(settings.home)
    git.git(settings.work_tree, "fetch", "--quiet", "--tags", "origin", check=False)
    return settings.work_tree


def _read(path: Path, kind: type[RecordT]) -> RecordT | None:
    return read_record(path, kind) if path.is_file() else None


def _passed(verification: VerificationRecord | None) -> str:
    if verification is None:
        return "no"
    return "yes" if verification.passed else "REFUSED"
