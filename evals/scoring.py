"""The stage evaluate: score weights on a suite with lm-eval; refuse results that say nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from evals.engines import EngineConfig, scoring_environment
from evals.evaluation_report import write_report
from evals.items import write_items
from evals.lm_eval_child import (
    ScoredTask,
    ScoringRequest,
    ScoringResponse,
    TaskRequest,
    run_lm_eval,
)
from evals.outcomes import item_results, task_result
from evals.suites import (
    Engine,
    Suite,
    SuiteTask,
    load_task_file,
    read_rows,
    scored_items,
    suite_digest,
    task_digest,
    validate_suite,
)
from evals.vllm_metadata import vllm_environment
from pipelines.canonical import Frozen, sha256_file, write_record
from pipelines.errors import DigestMismatch, UnusableEvidence
from pipelines.records import EvaluationRecord
from pipelines.template import template_sha256


class ScoringConfig(Frozen):
    """What is evaluated, and what it was verified as; all digests are sha256 as hex."""

    name: str
    weight_digest: str
    template_sha256: str
    suite_name: str
    suite_sha256: str
    code_digest: str
    engine: Engine


def score(config: ScoringConfig, weights: Path, suite: Path, out: Path) -> EvaluationRecord:
    """Score the model in `weights` on the suite in `suite` and write the results into `out`.

    `out` must not exist; it gets evaluation.json (the record returned), items.parquet and
    report.md. The same inputs on the same machine give the same bytes.

    Raises what `validate_suite` raises; DigestMismatch when the suite is not the one that `config`
    names; UnusableEvidence when the chat template is not the verified one, a prompt does not fit,
    or what was found cannot carry a decision (evals.outcomes); CommandFailed when lm-eval ends with
    an error.
    """
    checked = _checked_suite(config, suite)
    _check_template(config, checked, template_sha256(weights))
    found = run_suite(config, checked, weights, suite)
    _check_template(config, checked, found.template_sha256)
    tasks, items = [], []
    for name, task in checked.tasks.items():
        about = f"{config.name} on {config.suite_name}, task {name}"
        outcome = found.tasks.get(name, ScoredTask())
        wanted = scored_items(task, read_rows(suite / task.data))
        items += item_results(about, name, task, outcome, wanted)
        digests = (task_digest(suite, name, task), sha256_file(suite / task.data))
        tasks.append(task_result(about, name, task, outcome, digests))
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
    )
    write_record(out / "evaluation.json", record)
    write_report(out / "report.md", record, items)
    return record


def run_suite(config: ScoringConfig, suite: Suite, weights: Path, folder: Path) -> ScoringResponse:
    """Run lm-eval in a child on a checked suite, which lies in `folder`; judge nothing but length.

    The child sees a copy of the tasks that names its data by absolute path, cut to the limits.
    """
    with tempfile.TemporaryDirectory(prefix="weighbridge-evaluate-") as made:
        scratch = Path(made)
        tasks = scratch / "tasks"
        tasks.mkdir()
        for name, task in suite.tasks.items():
            _render_task(folder, name, task, tasks)
        request = ScoringRequest(
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
            tasks_folder=str(tasks),
            tasks={name: _task_request(task) for name, task in suite.tasks.items()},
        )
        with vllm_environment(config.engine) as added:
            environment = {**scoring_environment(), **_caches(scratch), **added}
            response = run_lm_eval(request, environment)
    if response.too_long:
        raise UnusableEvidence(
            f"{config.name} on {config.suite_name}",
            response.too_long,
            f"Shorten the items, or raise max_length ({suite.max_length}) in suite.yaml as far as "
            "the model reads.",
        )
    return response


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


def _task_request(task: SuiteTask) -> TaskRequest:
    metric, filtered = task.metric_key.split(",", 1)
    return TaskRequest(metric=metric, filter=filtered, slice=task.slice)


def _render_task(folder: Path, name: str, task: SuiteTask, tasks: Path) -> None:
    data = tasks / f"{name}.parquet"
    _write_data(folder / task.data, scored_items(task, read_rows(folder / task.data)), data)
    parsed = load_task_file(folder, name, task).model_dump(mode="json", exclude_none=True)
    rendered = parsed | {
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
    }
    (tasks / f"{name}.yaml").write_text(yaml.safe_dump(rendered), encoding="utf-8")


def _write_data(source: Path, count: int, target: Path) -> None:
    """The first `count` items as Parquet: read as JSON, a text like a date would become a date."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist(read_rows(source)[:count])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UnusableEvidence(
            str(source), f"a field is not of one type in all items ({error})", "Use one type."
        ) from error
    pq.write_table(table, target)


def _caches(scratch: Path) -> dict[str, str]:
    """Caches within `scratch`: no run may see what another one left."""
    return {
        "HF_HOME": str(scratch / "huggingface"),
        "HF_DATASETS_CACHE": str(scratch / "datasets"),
        "LM_HARNESS_CACHE_PATH": str(scratch / "lm-eval"),
    }
