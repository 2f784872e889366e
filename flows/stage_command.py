"""`weighbridge stage STAGE ITEM`: run one stage instance in the current registry.

This is what dvc.yaml calls. It reads the stage's inputs from models.yaml and the registry's
folders, checks that they are what was recorded, runs the stage function into temporary folders and
renames them into place, and writes the run's times beside the record.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.batch.job import Limits
from pipelines.batch.limits import price_usd_per_hour
from pipelines.canonical import sha256_file, write_record
from pipelines.code_digest import check_code
from pipelines.digest import build_manifest, check_digest, weight_digest
from pipelines.errors import NotVerified, UnknownName
from pipelines.models_file import ModelsFile, entry, load_models, load_yaml, parse_config
from pipelines.records import (
    ManifestRecord,
    RunInfo,
    VerificationRecord,
    read_record,
)
from pipelines.settings import find_registry
from pipelines.store.integrity import check_outputs
from pipelines.store.registry import STAGES, Layout
from pipelines.verification.waivers import expired, today

if TYPE_CHECKING:
    from pipelines.models_file import ModelEntry
    from pipelines.verification.policy import PickleScanner


class StageRun:
    """What every stage needs: the registry, its models, the code's digest, and safe outputs."""

    def __init__(self, stage: str, item: str, root: Path) -> None:
        self.stage, self.item = stage, item
        self.layout = Layout(root)
        self.models: ModelsFile = load_models(root)
        self.code_digest = check_code(root, stage)
        # Outlives a disposable clone: what a killed stage fetched or trained is found again.
        self.home = Path(os.environ.get("WEIGHBRIDGE_HOME") or root / ".weighbridge")
        self.details: dict[str, str | int | float] = {}

    def manifest(self, name: str) -> ManifestRecord:
        """The manifest of a model, after comparing the evidence with dvc.lock."""
        check_outputs(self.layout.root, f"evidence/{name}/origin")
        return read_record(self.layout.origin(name) / "manifest.json", ManifestRecord)

    def verification(self, name: str) -> VerificationRecord:
        """A passing verification about the bytes that lie here; raises NotVerified otherwise."""
        check_outputs(self.layout.root, f"evidence/{name}/verification")
        record = read_record(
            self.layout.verification(name) / "verification.json", VerificationRecord
        )
        if not record.passed:
            refusals = [f for f in record.findings if f.severity == "refusal"]
            raise NotVerified(name, [f"{f.file or name}: {f.fact}" for f in refusals])
        if ended := expired(record, today()):
            raise NotVerified(name, [f"a waiver has ended: {line}" for line in ended])
        return record

    def weights(self, name: str) -> Path:
        """A model's folder, re-hashed against its manifest; raises DigestMismatch."""
        folder = self.layout.weights(name)
        check_digest(folder, self.manifest(name).weight_digest)
        return folder

    @contextmanager
    def outputs(self, *finals: Path) -> Iterator[list[Path]]:
        """Temporary folders that become `finals` together when the block succeeds."""
        temporaries = [final.with_name(f".{final.name}.partial") for final in finals]
        for temporary, final in zip(temporaries, finals, strict=True):
            for old in (temporary, final):
                if old.exists():
                    shutil.rmtree(old)
            final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporaries
            for temporary, final in zip(temporaries, finals, strict=True):
                os.replace(temporary, final)
        finally:
            for temporary in temporaries:
                shutil.rmtree(temporary, ignore_errors=True)


def run_stage(stage: str, item: str, start: Path) -> Path:
    """Run one stage instance in the registry around `start`; returns the evidence folder."""
    if stage not in STAGES:
        raise UnknownName("dvc.yaml", "stage", stage, STAGES)
    run = StageRun(stage, item, find_registry(start))
    began, clock = datetime.now(UTC), time.monotonic()
    produced = _STAGES[stage](run)
    wall_s = round(time.monotonic() - clock, 3)
    price = price_usd_per_hour(Limits())
    cost = {} if price is None else {"cost_usd": round(price * wall_s / 3600, 6)}
    info = RunInfo(
        stage=f"{stage}@{item}",
        started_at=began.isoformat(timespec="seconds"),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_s=wall_s,
        cpu_s=round(_cpu_seconds(), 3),
        peak_memory_bytes=_peak_memory_bytes(),
        host=socket.gethostname(),
        details=run.details | cost,
    )
    write_record(produced.with_name(f"{produced.name}.run.json"), info)
    return produced


def _ingest(run: StageRun) -> Path:
    from pipelines.ingest import IngestConfig, ingest
    from pipelines.store.objects import ObjectStore
    from pipelines.store.told import tell_dvc

    name, layout = run.item, run.layout
    model = entry(layout.root, "model", run.models.models, name)
    config = IngestConfig(
        name=name,
        entry=model,
        code_digest=run.code_digest,
        home=run.home,
        pickle_scanners=_pickle_scanners(layout.root, model),
    )
    with run.outputs(layout.weights(name), layout.origin(name)) as (weights, origin):
        record = ingest(config, weights, origin)
    tell_dvc(layout.root, layout.weights(name), record.files, ObjectStore(run.home))
    return layout.origin(name)


def _pickle_scanners(root: Path, model: ModelEntry) -> tuple[PickleScanner, ...] | None:
    """Who judges pickles; None where the policy refuses them. What is taken in does not depend on
    the policy, only whether: so it is no dependency of the stage, and verify judges it again."""
    if model.convert != "depickle":
        return None
    from pipelines.verification.policy import load_policy

    policy = load_policy(root / "policy" / "verification.yaml")
    return policy.pickle_scanners if policy.pickle == "depickle" else None


def _finetune(run: StageRun) -> Path:
    from pipelines.finetune import FinetuneConfig, finetune
    from pipelines.recipe import Recipe

    name, layout = run.item, run.layout
    tuning = entry(layout.root, "tuning", run.models.tunings, name)
    run.verification(tuning.base)
    recipe = layout.root / "recipes" / f"{tuning.recipe}.yaml"
    dataset = layout.root / "datasets" / tuning.dataset
    config = FinetuneConfig(
        name=name,
        base_name=tuning.base,
        base_manifest=run.manifest(tuning.base),
        base_origin=layout.origin(tuning.base),
        recipe=parse_config(recipe, Recipe, load_yaml(recipe)),
        recipe_sha256=sha256_file(recipe),
        dataset_name=tuning.dataset,
        dataset_sha256=weight_digest(build_manifest(dataset)),
        code_digest=run.code_digest,
        work=run.home / "training",
    )
    base = run.weights(tuning.base)
    with run.outputs(layout.weights(name), layout.origin(name)) as (weights, origin):
        finetune(config, base, dataset, weights, origin)
    return layout.origin(name)


def _verify(run: StageRun) -> Path:
    from flows.verifying import registry_config
    from pipelines.verify import verify

    name, layout = run.item, run.layout
    config = registry_config(layout.root, run.models, name, run.code_digest)
    run.manifest(name)
    with run.outputs(layout.verification(name)) as (out,):
        verify(config, layout.weights(name), layout.origin(name), out)
    return layout.verification(name)


def _evaluate(run: StageRun) -> Path:
    from evals.scoring import ScoringConfig, score
    from evals.suites import load_suite, suite_digest
    from evals.training_sets import trained_on

    layout = run.layout
    evaluation = entry(layout.root, "evaluation", run.models.evaluations, run.item)
    name, suite = evaluation.model, layout.root / "suites" / evaluation.suite
    verification = run.verification(name)
    config = ScoringConfig(
        name=name,
        weight_digest=run.manifest(name).weight_digest,
        template_sha256=verification.template_sha256,
        suite_name=evaluation.suite,
        suite_sha256=suite_digest(suite),
        code_digest=run.code_digest,
        engine=load_suite(suite).engine,
        trained_on=trained_on(layout.root, run.models, name),
    )
    weights = run.weights(name)
    final = layout.evaluation(name, evaluation.suite)
    with run.outputs(final) as (out,):
        scored = score(config, weights, suite, out, run.home / "evaluation-blocks")
    run.details.update(scored.details())
    return final


def _gate(run: StageRun) -> Path:
    from evals.gate import GateConfig, gate
    from evals.policy import load_policy

    name, layout = run.item, run.layout
    wanted = entry(layout.root, "gate", run.models.gates, name)
    policy = layout.root / "policy" / "gates" / f"{wanted.policy}.yaml"
    for model in (name, wanted.baseline.name):
        check_outputs(layout.root, f"evidence/{model}")
    config = GateConfig(
        name=name,
        baseline=wanted.baseline,
        policy_name=wanted.policy,
        policy=load_policy(policy),
        policy_sha256=sha256_file(policy),
        code_digest=run.code_digest,
    )
    with run.outputs(layout.verdict(name)) as (out,):
        gate(config, layout.evidence(name), layout.evidence(wanted.baseline.name), out)
    return layout.verdict(name)


_STAGES: dict[str, Callable[[StageRun], Path]] = {
    "ingest": _ingest,
    "finetune": _finetune,
    "verify": _verify,
    "evaluate": _evaluate,
    "gate": _gate,
}


def _usage() -> list[resource.struct_rusage]:
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usage())


def _peak_memory_bytes() -> int:
    return max(usage.ru_maxrss for usage in _usage()) * 1024  # Linux gives KiB
