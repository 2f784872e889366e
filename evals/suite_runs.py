"""Run a suite's blocks: those found on this machine are taken, the others go to lm-eval."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from evals.block_store import BlockResult, BlockStore, ScoredTask, Tokens
from evals.blocks import Block
from evals.engines import EngineConfig, scoring_environment
from evals.lm_eval_child import ScoringRequest, TaskRequest, run_lm_eval
from evals.suites import Row, Suite, SuiteTask, load_task_file, scored_rows
from evals.vllm_metadata import vllm_environment
from pipelines.canonical import Frozen
from pipelines.errors import UnusableEvidence


class SuiteRun(Frozen):
    """What to run, and where blocks are kept; without `store`, nothing is taken and nothing kept.

    `template_sha256` is of the verified template: no block of another one is kept.
    """

    about: str
    engine: EngineConfig
    apply_chat_template: bool
    template_sha256: str
    store: Path | None


class SuiteOutcome(Frozen):
    """What all blocks gave together; `template_sha256` is None where no model was loaded."""

    engine: str
    template_sha256: str | None
    tasks: Mapping[str, ScoredTask]
    items: int
    cached_items: int
    damaged_blocks: int
    tokens: Tokens


def run_blocks(
    run: SuiteRun, suite: Suite, folder: Path, blocks: Mapping[str, Sequence[Block]]
) -> SuiteOutcome:
    """Score every block of the checked suite in `folder`; judge nothing but length and engine.

    A process that runs nothing from the cache imports no engine. Raises UnusableEvidence when an
    item does not fit or blocks come from different engines, CommandFailed when lm-eval ends with
    an error.
    """
    store = None if run.store is None else BlockStore(run.store)
    keys = [block.key for part in blocks.values() for block in part]
    known = {key: found for key in keys if store and (found := store.get(key)) is not None}
    missing = {
        name: [block for block in part if block.key not in known] for name, part in blocks.items()
    }
    scored, template = _score(run, suite, folder, {k: v for k, v in missing.items() if v})
    every = known | scored
    engines = sorted({every[key].engine for key in keys})
    if len(engines) != 1:
        raise UnusableEvidence(
            run.about,
            f"its items were scored by different engines: {', '.join(engines)}",
            f"Delete {run.store}, and evaluate again.",
        )
    return SuiteOutcome(
        engine=engines[0],
        template_sha256=template,
        tasks={
            name: joined([every[block.key] for block in part], part)
            for name, part in blocks.items()
        },
        items=_count(blocks),
        cached_items=_count(blocks) - _count(missing),
        damaged_blocks=store.damaged if store else 0,
        tokens=Tokens(
            prompt=sum(block.tokens.prompt for block in scored.values()),
            generated=sum(block.tokens.generated for block in scored.values()),
        ),
    )


def joined(results: Sequence[BlockResult], blocks: Sequence[Block]) -> ScoredTask:
    """The blocks of a task as one; what one block lacks, the task lacks.

    The value is the mean of lm-eval's means, weighted by items; the standard error is lm-eval's
    formula for a mean, s / sqrt(n) with s over n - 1 (lm_eval.api.metrics.mean_stderr).
    """
    parts = [result.scored for result in results]
    items = tuple(
        item.model_copy(update={"doc_id": item.doc_id + block.start})
        for part, block in zip(parts, blocks, strict=True)
        for item in part.items
    )
    directions = {part.higher_is_better for part in parts} - {None}
    return ScoredTask(
        value=_mean(parts),
        stderr=standard_error([item.score for item in items]),
        higher_is_better=directions.pop() if len(directions) == 1 else None,
        items=items,
        probe=next((p for p in (part.probe for part in parts) if not _finite(p)), parts[0].probe),
    )


def _mean(parts: Sequence[ScoredTask]) -> object:
    if odd := [part.value for part in parts if not _finite(part.value)]:
        return odd[0]
    total = sum(len(part.items) for part in parts)
    return math.fsum(part.value * len(part.items) for part in parts) / total if total else None


def _finite(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def standard_error(scores: Sequence[float | None]) -> float | None:
    """lm-eval's standard error of a mean; None for fewer than two scores, or one not finite."""
    numbers = [score for score in scores if score is not None and math.isfinite(score)]
    if len(numbers) != len(scores) or len(numbers) < 2:
        return None
    mean = math.fsum(numbers) / len(numbers)
    variance = math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1)
    return math.sqrt(variance / len(numbers))


def _count(blocks: Mapping[str, Sequence[Block]]) -> int:
    return sum(block.stop - block.start for part in blocks.values() for block in part)


def _score(
    run: SuiteRun, suite: Suite, folder: Path, missing: Mapping[str, Sequence[Block]]
) -> tuple[dict[str, BlockResult], str | None]:
    """Blocks by key from a child that runs lm-eval, and the template that it rendered with.

    The child sees a copy of the tasks that names its data by absolute path, cut to the limits.
    """
    if not missing:
        return {}, None
    with tempfile.TemporaryDirectory(prefix="weighbridge-evaluate-") as made:
        scratch = Path(made)
        tasks = scratch / "tasks"
        tasks.mkdir()
        for name in missing:
            render_task(folder, name, suite.tasks[name], tasks)
        request = ScoringRequest(
            engine=run.engine,
            apply_chat_template=run.apply_chat_template,
            template_sha256=run.template_sha256,
            store="" if run.store is None else str(run.store),
            tasks_folder=str(tasks),
            tasks={
                name: _task_request(suite.tasks[name], blocks) for name, blocks in missing.items()
            },
        )
        with vllm_environment(run.engine.engine) as added:
            environment = {**scoring_environment(), **_caches(scratch), **added}
            response = run_lm_eval(request, environment)
    if response.too_long:
        raise UnusableEvidence(
            run.about,
            response.too_long,
            f"Shorten the items, or raise max_length ({suite.max_length}) in suite.yaml as far as "
            "the model reads.",
        )
    return dict(response.blocks), response.template_sha256


def _task_request(task: SuiteTask, blocks: Sequence[Block]) -> TaskRequest:
    metric, filtered = task.metric_key.split(",", 1)
    return TaskRequest(metric=metric, filter=filtered, blocks=tuple(blocks))


def render_task(folder: Path, name: str, task: SuiteTask, tasks: Path) -> None:
    """Write `tasks`/NAME.yaml for lm-eval, with the items that are asked as Parquet beside it."""
    data = tasks / f"{name}.parquet"
    _write_data(folder / task.data, scored_rows(folder, task), data)
    parsed = load_task_file(folder, name, task).model_dump(mode="json", exclude_none=True)
    rendered = parsed | {
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
    }
    if "fewshot_config" in parsed:  # drawn at random, they would depend on the items before
        rendered["fewshot_config"] = {"sampler": "first_n"} | parsed["fewshot_config"]
    (tasks / f"{name}.yaml").write_text(yaml.safe_dump(rendered), encoding="utf-8")


def _write_data(source: Path, rows: Sequence[Row], target: Path) -> None:
    """The items as Parquet: read as JSON, a text like a date would become a date."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist(list(rows))
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
