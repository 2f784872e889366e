"""Suites: folders of lm-eval tasks with their data, read strictly and checked before any model.

A suite is a folder with `suite.yaml` (`Suite`), one lm-eval task file per task (`TaskFile`) and one
JSON Lines file per task. `evals/suites/README.md` explains the format with an example.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evals.scorers import METRICS, PLACEHOLDER, PLACEHOLDER_KEY, Scorer, row_facts
from pipelines.canonical import Frozen, canonical_json, sha256_bytes
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import ConfigError, UnusableEvidence, WrongKindOfPath
from pipelines.models_file import load_yaml, parse_config

Engine = Literal["transformers", "vllm"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # no folders, no ..
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Row = dict[str, Any]


class SuiteTask(Frozen):
    """One task of a suite."""

    file: FileName = Field(description="lm-eval task file in the suite's folder")
    data: FileName = Field(description="JSON Lines in the suite's folder, one object an item")
    scorer: Scorer | None = Field(
        default=None, description="scores generated texts in place of a metric of lm-eval's"
    )
    metric: str = Field(description="'acc', or 'exact_match,FILTER' for a named filter")
    higher_is_better: bool
    limit: int | None = Field(default=None, ge=1, description="first items only; null is all")
    min_items: int = Field(ge=2, description="fewer scored items than this are no evidence")
    slices: tuple[str, ...] = Field(default=(), description="fields of an item to report by")
    cluster: str | None = Field(
        default=None, description="field that names what dependent items have in common"
    )
    weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="in the report's mean over tasks"
    )

    @property
    def metric_key(self) -> str:
        """The key of the metric in lm-eval's results: 'acc,none'."""
        if self.scorer is not None:
            return PLACEHOLDER_KEY
        return self.metric if "," in self.metric else f"{self.metric},none"


class Suite(Frozen):
    """suites/NAME/suite.yaml. Everything that a prompt or a score depends on, but the weights."""

    description: str
    engine: Engine
    dtype: Literal["bfloat16", "float16", "float32"]
    apply_chat_template: bool
    batch_size: int = Field(ge=1, le=4096)
    seed: int = Field(ge=0)
    max_length: int = Field(
        default=2048, ge=16, description="tokens of prompt and answer; a longer item is refused"
    )
    tasks: dict[TaskName, SuiteTask] = Field(min_length=1)


class TaskFile(Frozen):
    """The keys of lm-eval's task files that a suite may use.

    Where the data lie is said in suite.yaml and nowhere else. Keys that run code (`!function`,
    `include`, `unsafe_code`) or fetch (`dataset_path`) do not exist here.
    """

    task: str
    output_type: Literal["multiple_choice", "loglikelihood", "generate_until"]
    doc_to_text: str
    doc_to_target: str | int
    doc_to_choice: str | list[str] | dict[str, str] | None = None
    description: str = ""
    target_delimiter: str = " "
    gen_prefix: str | None = None
    num_fewshot: int = Field(default=0, ge=0)
    fewshot_delimiter: str = "\n\n"
    fewshot_config: dict[str, Any] | None = None
    generation_kwargs: dict[str, Any] | None = None
    filter_list: list[dict[str, Any]] | None = None
    metric_list: list[dict[str, Any]] = []
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> Self:
        if self.output_type == "multiple_choice" and self.doc_to_choice is None:
            raise ValueError("output_type multiple_choice needs doc_to_choice")
        if self.output_type == "generate_until" and self.generation_kwargs is None:
            raise ValueError(
                "output_type generate_until needs generation_kwargs (until, max_gen_toks)"
            )
        if self.num_fewshot and not (self.fewshot_config or {}).get("samples"):
            raise ValueError("num_fewshot needs fewshot_config.samples, the examples to show")
        if (self.fewshot_config or {}).get("sampler", "first_n") != "first_n":
            raise ValueError(
                "fewshot_config.sampler can only be first_n: examples drawn at random would depend "
                "on which items are run"
            )
        return self

    def metric_keys(self) -> dict[str, bool | None]:
        """Each 'metric,filter' that lm-eval will compute, with its direction where stated."""
        filters = [str(f.get("name")) for f in self.filter_list or []] or ["none"]
        return {
            f"{metric.get('metric')},{name}": metric.get("higher_is_better")
            for metric in self.metric_list
            for name in filters
        }


def load_suite(folder: Path) -> Suite:
    """Read `folder`/suite.yaml; raises WrongKindOfPath when absent, ConfigError otherwise."""
    if not folder.is_dir():
        raise WrongKindOfPath(folder, "a suite's folder")
    path = folder / "suite.yaml"
    return parse_config(path, Suite, load_yaml(path))


def load_task_file(folder: Path, name: str, task: SuiteTask) -> TaskFile:
    """Read the lm-eval file of one task and hold it against suite.yaml.

    Raises WrongKindOfPath when it is absent; ConfigError on a key that a suite may not use, another
    task name than suite.yaml gives, or a metric that the file does not compute. Where suite.yaml
    names a scorer, the metric returned is a placeholder.
    """
    path = folder / task.file
    parsed = parse_config(path, TaskFile, load_yaml(path))
    if parsed.task != name:
        raise ConfigError(
            path, f"task is {parsed.task!r}, but suite.yaml calls it {name!r}", "Use one name."
        )
    if task.scorer is not None:
        return _scored_by_us(path, name, task, parsed)
    produced = parsed.metric_keys()
    if task.metric_key not in produced:
        raise ConfigError(
            path,
            f"does not produce the metric {task.metric_key!r} that suite.yaml asks of {name}; it "
            f"produces {', '.join(sorted(produced)) or 'none'}",
            "Add it to metric_list, or name another metric in suite.yaml.",
        )
    if produced[task.metric_key] not in (None, task.higher_is_better):
        raise ConfigError(
            path,
            f"says higher_is_better: {produced[task.metric_key]} of {task.metric_key}, suite.yaml "
            "says the opposite",
            "Correct the wrong one.",
        )
    return parsed


def _scored_by_us(path: Path, name: str, task: SuiteTask, parsed: TaskFile) -> TaskFile:
    """Hold a task with a scorer against it, and give lm-eval the metric that it wants."""
    assert task.scorer is not None
    kept = {"metric": METRICS[task.scorer], "higher_is_better": True}
    if odd := [key for key, value in kept.items() if getattr(task, key) != value]:
        fact = f"{odd[0]} of {name} is {getattr(task, odd[0])!r}"
        remedy = f"The scorer {task.scorer} has {odd[0]}: {kept[odd[0]]}."
        raise ConfigError(path.with_name("suite.yaml"), fact, remedy)
    if parsed.output_type != "generate_until":
        fact = f"output_type is {parsed.output_type}, and scorer {task.scorer} reads texts"
        raise ConfigError(path, fact, "Use generate_until.")
    if parsed.metric_list or parsed.filter_list:
        fact = f"has a metric_list or a filter_list, and suite.yaml names scorer {task.scorer}"
        raise ConfigError(path, fact, "Keep one of the two.")
    return parsed.model_copy(update={"metric_list": [PLACEHOLDER]})


def read_rows(path: Path) -> list[Row]:
    """The items of a JSON Lines file, in file order; empty lines are skipped.

    Raises WrongKindOfPath when absent and UnusableEvidence when a line is no JSON object.
    """
    if not path.is_file():
        raise WrongKindOfPath(path, "a JSON Lines file")
    rows: list[Row] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_number)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are this
            raise UnusableEvidence(
                f"{path}, line {number}", f"not JSON ({error})", "Correct the line."
            ) from error
        if not isinstance(row, dict):
            raise UnusableEvidence(
                f"{path}, line {number}", "not a JSON object", "Write one object a line."
            )
        rows.append(row)
    return rows


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON's")


def validate_suite(folder: Path) -> Suite:
    """Load a suite and check all that can be checked without a model.

    Raises what `load_suite`, `load_task_file` and `read_rows` raise, and UnusableEvidence, with
    every fact found, on data that are empty or too few, that repeat an id, whose rows differ in
    their keys, or that lack a field to report or to group by.
    """
    suite = load_suite(folder)
    for name, task in suite.tasks.items():
        load_task_file(folder, name, task)
        facts = data_facts(task, read_rows(folder / task.data))
        if facts:
            raise UnusableEvidence(
                str(folder / task.data), "; ".join(facts), "Correct the data of this task."
            )
    return suite


def suite_digest(folder: Path) -> str:
    """sha256 of the canonical manifest of the suite's folder, as for weights (pipelines.digest)."""
    return weight_digest(build_manifest(folder))


def task_digest(folder: Path, name: str, task: SuiteTask) -> str:
    """sha256 of what one task asks and how it scores: its file's content and its part of the suite.

    Comments and the order of keys do not count.
    """
    definition = load_task_file(folder, name, task).model_dump(mode="json")
    return sha256_bytes(canonical_json({"file": definition, "suite": task.model_dump(mode="json")}))


def scored_items(task: SuiteTask, rows: Sequence[Row]) -> int:
    """How many items an evaluation of the task must score: all, or the first `limit`."""
    return len(rows) if task.limit is None else min(task.limit, len(rows))


def scored_rows(folder: Path, task: SuiteTask) -> list[Row]:
    """The items that an evaluation asks, in file order; raises what `read_rows` raises."""
    rows = read_rows(folder / task.data)
    return rows[: scored_items(task, rows)]


def data_facts(task: SuiteTask, rows: Sequence[Row]) -> list[str]:
    """What is wrong with the items of a task, each fact in a few words; empty when nothing is."""
    if not rows:
        return ["no items"]
    facts = []
    if (count := scored_items(task, rows)) < task.min_items:
        facts.append(f"{count} items would be scored, min_items is {task.min_items}")
    ids = [row.get("id") for row in rows]
    if without := sum(not isinstance(i, str) or not i for i in ids):
        facts.append(f"{without} items without an id (a non-empty text)")
    if twice := sorted(i for i, times in Counter(map(str, ids)).items() if times > 1):
        facts.append(f"ids that stand twice: {', '.join(twice[:5])}")
    if odd := [n for n, row in enumerate(rows) if set(row) != set(rows[0])]:
        facts.append(f"{len(odd)} items with other keys than the first, item {odd[0] + 1} first")
    if task.scorer is not None:
        facts += row_facts(task.scorer, rows)
    for kind, field in _reported_fields(task):
        if not all(isinstance(row.get(field), str) and row[field] for row in rows):
            facts.append(f"items whose {kind} field {field!r} is missing or no text")
    return facts


def _reported_fields(task: SuiteTask) -> list[tuple[str, str]]:
    cluster = [] if task.cluster is None else [("cluster", task.cluster)]
    return [*(("slice", field) for field in task.slices), *cluster]
