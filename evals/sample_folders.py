"""Per-item results outside a registry: folders of lm-eval's samples, or an evidence folder of ours.

lm-eval writes one `samples_TASK_TIME.jsonl` per task, with a line per document and filter, and the
values of every metric. Each metric of a task is judged on its own, unless the policy names one:
choosing the better one afterwards would be a choice of the result. For the same reason two files of
one task are refused, and the newer one is not taken.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.evidence import EVALUATIONS_FOLDER, GateEvidence, SuiteEvidence, read_evidence
from evals.items import ItemResult
from evals.policy import GatePolicy
from evals.sample_metrics import (
    HIGHER_IS_BETTER,
    LOWER_IS_BETTER,
    check_answers,
    direction,
    item_scores,
)
from evals.sample_results import AGAIN, RunResults, Said, check_counts
from pipelines.canonical import canonical_json, sha256_bytes, sha256_file
from pipelines.errors import UnusableEvidence, WrongKindOfPath
from pipelines.records import EvaluationRecord, TaskResult

SUITE = "lm-eval"
# The time is lm-eval's 2026-11-22T10-00-00.123456, or any other date or number of seconds.
_SAMPLES = re.compile(
    r"samples_(?P<task>.+?)_(?P<time>\d{4}-?\d\d-?\d\d(?:[T_ -]?[\d:.-]+)?Z?|\d{9,}[\d.]*)\.jsonl"
)

Line = Mapping[str, Any]


@dataclass(frozen=True)
class _Series:
    """The values of one metric and filter of a task: a line a document."""

    label: str
    metric: str
    lines: Sequence[Line]


def read_folder(folder: Path, policy: GatePolicy, role: str) -> GateEvidence:
    """Evidence of one model from evidence/NAME of a registry, or from lm-eval's output folder.

    No file of lm-eval's names the weights, so their digest is made of the samples and of `role`
    ("candidate" or "baseline"): two models may give the same answers.

    Raises WrongKindOfPath when `folder` is neither, UnusableEvidence for samples that cannot carry
    a decision, and what `read_evidence` raises.
    """
    if not folder.is_dir():
        raise WrongKindOfPath(folder, "a folder of evaluation results")
    if (folder / EVALUATIONS_FOLDER).is_dir():
        return read_evidence(folder.absolute())
    files = _sample_files(folder)
    said = RunResults(folder)
    said.check_tasks(files)
    tasks: list[TaskResult] = []
    items: dict[str, list[ItemResult]] = {}
    for task, (path, time) in sorted(files.items()):
        about = said.about(task, time)
        for result, scored in _read_task(path, task, about, policy):
            tasks.append(result)
            items[result.task] = scored
    digests = {path.relative_to(folder).as_posix(): sha256_file(path) for path, _ in files.values()}
    record = EvaluationRecord(
        name=folder.name,
        weight_digest=sha256_bytes(canonical_json([role, digests])),
        suite=SUITE,
        suite_sha256="",
        code_digest="",
        engine="lm-eval",
        dtype="",
        template_sha256="",
        tasks=tuple(tasks),
        items_sha256="",
    )
    named = {f"{folder.name}/{name}": digest for name, digest in sorted(digests.items())}
    return GateEvidence(suites=[SuiteEvidence(record=record, items=items)], files=named)


def _sample_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Task to its one file of samples and its time; lm-eval makes a folder named by the model."""
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted(folder.rglob("samples_*.jsonl")):
        match = _SAMPLES.fullmatch(path.name)
        task = match["task"] if match else path.stem.removeprefix("samples_")
        if task in found:
            fact = f"two files of samples for {task}: {found[task][0].name} and {path.name}"
            raise UnusableEvidence(str(folder), fact, "Keep the files of one run.")
        found[task] = path, match["time"] if match else ""
    if not found:
        raise WrongKindOfPath(folder, "a folder with samples_TASK_TIME.jsonl of lm-eval")
    return found


def _read_task(
    path: Path, task: str, said: Said, policy: GatePolicy
) -> Iterator[tuple[TaskResult, list[ItemResult]]]:
    by_filter: dict[str, list[Line]] = defaultdict(list)
    for line in _lines(path):
        by_filter[str(line.get("filter", "none"))].append(line)
    ids = {name: [line["doc_id"] for line in lines] for name, lines in by_filter.items()}
    check_counts(str(path), said, ids)
    _check_duplicates(path, ids)
    rule = policy.rule(f"{SUITE}/{task}")
    for series in _series(path, task, by_filter, said, rule.metric if rule else None):
        name = series.metric.partition(",")[0]
        values = {line["doc_id"]: line.get(name) for line in series.lines}
        judged, scores = item_scores(str(path), name, values)
        metric = series.metric.replace(name, judged, 1)
        cluster = rule.cluster if rule else None
        items = [
            _item(path, series.label, metric, line, scores[line["doc_id"]])._replace(
                slices=_slices(line, policy), cluster=_cluster(path, line, cluster)
            )
            for line in series.lines
        ]
        result = TaskResult(
            task=series.label,
            metric=metric,
            higher_is_better=direction(str(path), name, said.higher_is_better),
            items=len(items),
            value=math.fsum(scores.values()) / len(items),
            stderr=None,
            task_sha256=said.version,
            data_sha256="",  # documents are compared one by one
        )
        yield result, items


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                fact = f"line {number} is not JSON ({error})"
                raise UnusableEvidence(str(path), fact, AGAIN) from error
            doc_id = line.get("doc_id") if isinstance(line, dict) else None
            if not isinstance(doc_id, int) or isinstance(doc_id, bool):
                raise UnusableEvidence(str(path), f"line {number} has no doc_id", AGAIN)
            yield line


def _check_duplicates(path: Path, ids: Mapping[str, Sequence[int]]) -> None:
    for name, group in ids.items():
        if len(set(group)) < len(group):
            twice = next(doc for doc in group if group.count(doc) > 1)
            fact = f"document {twice} was scored more than once (filter {name})"
            raise UnusableEvidence(str(path), fact, "Keep the lines of one run.")


def _series(
    path: Path, task: str, by_filter: Mapping[str, list[Line]], said: Said, wanted: str | None
) -> list[_Series]:
    """The series to judge: the one that the policy names, else all of them."""
    found = {
        (metric, name): lines
        for name, lines in by_filter.items()
        for metric in _metrics(lines[0], said)
    }
    if wanted is not None:
        metric, _, name = wanted.partition(",")
        chosen = [v for k, v in found.items() if k[0] == metric and name in ("", k[1])]
        if len(chosen) != 1:
            there = ", ".join(sorted(f"{metric},{name}" for metric, name in found))
            fact = f"the policy asks for {wanted}, and the samples hold {there or 'no metric'}"
            raise UnusableEvidence(str(path), fact, "Name one of them as metric,filter.")
        return [_Series(task, wanted, chosen[0])]
    if not found:
        raise UnusableEvidence(str(path), "its lines name no metric", AGAIN)
    several = len(by_filter) > 1
    return [
        _Series(
            task if len(found) == 1 else f"{task}:{metric}{f',{name}' if several else ''}",
            metric,
            lines,
        )
        for (metric, name), lines in sorted(found.items())
    ]


def _metrics(line: Line, said: Said) -> list[str]:
    """The metrics of a line; lm-eval before 0.4.4 does not list them."""
    if "metrics" in line:
        return [str(metric) for metric in line["metrics"] or ()]
    known = HIGHER_IS_BETTER | LOWER_IS_BETTER | set(said.higher_is_better)
    return sorted(known & set(line))


def _item(path: Path, label: str, metric: str, line: Line, score: float) -> ItemResult:
    check_answers(str(path), line["doc_id"], line.get("resps"))
    return ItemResult(
        task=label,
        doc_id=line["doc_id"],
        doc_hash=_identity(line.get("doc_hash"), line.get("doc")),
        prompt_hash=_identity(line.get("prompt_hash"), line.get("arguments")),
        target_hash=_identity(line.get("target_hash"), line.get("target")),
        metric=metric,
        score=score,
        answer=json.dumps(line.get("filtered_resps"), ensure_ascii=False),
        gold=str(line.get("target", "")),
        item_id=_item_id(line),
        prompt=_prompt(line),
    )


def _identity(stated: Any, content: Any) -> str:
    """sha256 over lm-eval's hash and the content that was logged; '' where there is neither.

    Both, so that a changed document under an old hash is another document.
    """
    if stated is None and content is None:
        return ""
    text = json.dumps([stated, content], sort_keys=True, default=str)
    return sha256_bytes(text.encode())


def _slices(line: Line, policy: GatePolicy) -> dict[str, str]:
    """The fields of a document that the policy asks to judge by."""
    document = line.get("doc")
    fields = document if isinstance(document, dict) else {}
    return {key: str(fields[key]) for key in policy.slices if fields.get(key) is not None}


def _cluster(path: Path, line: Line, key: str | None) -> str:
    if key is None:
        return ""
    document = line.get("doc")
    value = document.get(key) if isinstance(document, dict) else None
    if value is None:
        fact = f"the policy groups the task's items by {key}, and it has none"
        remedy = "Name a field that every document has."
        raise UnusableEvidence(f"{path}, document {line['doc_id']}", fact, remedy)
    return str(value)


def _item_id(line: Line) -> str:
    """The document's own id, '' where the data set gives none."""
    document = line.get("doc")
    return str(document.get("id", "")) if isinstance(document, dict) else ""


def _prompt(line: Line) -> str:
    """The text that was sent, as lm-eval's command line logs it, '' where it did not.

    {"gen_args_0": {"arg_0": PROMPT, …}}: the choices of one item share their prompt.
    """
    arguments = line.get("arguments")
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    return str(first.get("arg_0", "")) if isinstance(first, dict) else ""
