"""The stage evaluate: score weights on a suite with lm-eval; refuse results that say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from evals.answer_scoring import check_scorers, score_answers
from evals.block_store import ScoredTask
from evals.blocks import plan_blocks, versions
from evals.contamination import contamination
from evals.engines import EngineConfig
from evals.evaluation_report import write_report
from evals.items import ItemResult, write_items
from evals.outcomes import item_results, task_result
from evals.suite_runs import SuiteOutcome, SuiteRun, run_blocks
from evals.suites import (
    Engine,
    Suite,
    scored_rows,
    suite_digest,
    task_digest,
    validate_suite,
)
from evals.training_sets import TrainingSet, check_training_sets
from pipelines.canonical import Frozen, sha256_file, write_record
from pipelines.errors import DigestMismatch, UnusableEvidence
from pipelines.records import EvaluationRecord, TaskResult
from pipelines.template import template_sha256


class ScoringConfig(Frozen):
    """What is evaluated, and what it was verified as; all digests are sha256 as hex.

    `trained_on` are the data sets that the weights were tuned on, as far as they were tuned here.
    """

    name: str
    weight_digest: str
    template_sha256: str
    suite_name: str
    suite_sha256: str
    code_digest: str
    engine: Engine
    trained_on: tuple[TrainingSet, ...] = ()


class Scored(NamedTuple):
    """The record, and what it took: the latter is for run.json, never for a digest."""

    record: EvaluationRecord
    outcome: SuiteOutcome

    def details(self) -> dict[str, str | int | float]:
        """Tokens of this run, items, and the share of them that the cache answered."""
        found = self.outcome
        return {
            "prompt_tokens": found.tokens.prompt,
            "generated_tokens": found.tokens.generated,
            "items": found.items,
            "cached_share": found.cached_items / found.items,
            "damaged_cache_blocks": found.damaged_blocks,
        }


def score(
    config: ScoringConfig, weights: Path, suite: Path, out: Path, cache: Path | None = None
) -> Scored:
    """Score the model in `weights` on the suite in `suite` and write the results into `out`.

    `out` must not exist; it gets evaluation.json (the record returned), items.parquet,
    contamination.json and report.md. The same inputs on the same machine give the same bytes,
    whatever of them was found in `cache`, a folder of this machine; None scores every item anew,
    as a control must be.

    Raises what `validate_suite` raises; DigestMismatch when the suite is not the one that `config`
    names; UnusableEvidence when the chat template is not the verified one, a prompt does not fit,
    or what was found cannot carry a decision (evals.outcomes); CommandFailed when lm-eval ends with
    an error; SandboxUnavailable when a scorer runs programs and this machine does not confine them.
    """
    checked = _checked_suite(config, suite)
    _check_template(config, checked, template_sha256(weights))
    check_training_sets(config.trained_on)
    check_scorers(checked)
    found = run_suite(config, checked, weights, suite, cache)
    if found.template_sha256 is not None:
        _check_template(config, checked, found.template_sha256)
    tasks, items = _results(config, checked, suite, found)
    out.mkdir()
    record = EvaluationRecord(
        name=config.name,
        weight_digest=config.weight_digest,
        suite=config.suite_name,
        suite_sha256=config.suite_sha256,
        code_digest=config.code_digest,
        engine=found.engine,
        dtype=checked.dtype,
        template_sha256=config.template_sha256,
        tasks=tuple(tasks),
        items_sha256=write_items(out / "items.parquet", items),
        versions=versions(config.engine),
    )
    write_record(out / "evaluation.json", record)
    overlap = contamination(config.trained_on, suite)
    write_record(out / "contamination.json", overlap)
    write_report(out / "report.md", record, items, overlap)
    return Scored(record, found)


def run_suite(
    config: ScoringConfig, suite: Suite, weights: Path, folder: Path, cache: Path | None = None
) -> SuiteOutcome:
    """Score a checked suite, which lies in `folder`; judge nothing but length and engine.

    Blocks of items are taken from and kept in `cache`; None scores everything and keeps nothing.
    """
    run = SuiteRun(
        about=f"{config.name} on {config.suite_name}",
        engine=EngineConfig(
            engine=config.engine,
            weights=str(weights.resolve()),
            dtype=suite.dtype,
            batch_size=suite.batch_size,
            max_length=suite.max_length,
            seed=suite.seed,
            what=f"evaluate {config.name} on {config.suite_name}",
        ),
        apply_chat_template=suite.apply_chat_template,
        template_sha256=config.template_sha256,
        store=None if cache is None else cache.resolve(),
    )
    bound = {
        "weights": config.weight_digest,
        "template": config.template_sha256,
        "code": config.code_digest,
        "engine": config.engine,
    }
    return run_blocks(run, suite, folder, plan_blocks(suite, folder, bound))


def _results(
    config: ScoringConfig, suite: Suite, folder: Path, found: SuiteOutcome
) -> tuple[list[TaskResult], list[ItemResult]]:
    tasks, items = [], []
    for name, task in suite.tasks.items():
        about = f"{config.name} on {config.suite_name}, task {name}"
        rows = scored_rows(folder, task)
        outcome = score_answers(about, task, found.tasks.get(name, ScoredTask()), rows)
        items += item_results(about, name, task, outcome, rows)
        digests = (task_digest(folder, name, task), sha256_file(folder / task.data))
        tasks.append(task_result(about, name, task, outcome, digests))
    return tasks, items


def _checked_suite(config: ScoringConfig, suite: Path) -> Suite:
    actual = suite_digest(suite)
    if actual != config.suite_sha256:
        raise DigestMismatch(suite, config.suite_sha256, actual)
    return validate_suite(suite)


def _check_template(config: ScoringConfig, suite: Suite, found: str) -> None:
    if found != config.template_sha256:
        raise UnusableEvidence(
            config.name,
            f"its chat template is {found or 'none'}, but {config.template_sha256 or 'none'} was "
            "verified",
            "Verify these weights again, then evaluate.",
        )
    if suite.apply_chat_template and not found:
        raise UnusableEvidence(
            config.name,
            f"it has no chat template, and suite {config.suite_name} applies one",
            "Use a suite with apply_chat_template: false for this model.",
        )
