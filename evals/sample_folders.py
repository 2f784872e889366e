"""Per-item results outside a registry: folders of lm-eval's samples, or an evidence folder of ours.

lm-eval writes one `samples_TASK_TIME.jsonl` per task, with a line per document and filter, and the
values of every metric. Each metric of a task is judged on its own, unless the policy names one:
choosing the better one afterwards would be a choice of the result.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.evidence import EVALUATIONS_FOLDER, GateEvidence, SuiteEvidence, read_evidence
from evals.items import ItemResult
from evals.policy import GatePolicy
from pipelines.canonical import canonical_json, sha256_bytes, sha256_file
from pipelines.errors import UnusableEvidence, WrongKindOfPath
from pipelines.records import EvaluationRecord, TaskResult

SUITE = "lm-eval"
_SAMPLES = re.compile(r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.-]+\.jsonl")
# lm-eval says the direction in results_*.json; where that file is not at hand, these are known, and
# any other metric is refused: a guess would let a worse candidate pass.
_HIGHER_IS_BETTER = {
    "acc", "acc_norm", "acc_mutual_info", "acc_all", "exact_match", "em", "f1", "mcc", "bleu",
    "chrf", "rouge1", "rouge2", "rougeL", "pass@1", "mrr",
}  # fmt: skip
_LOWER_IS_BETTER = {
    "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter",
    "wer",
}  # fmt: skip
_AGAIN = "Run lm-eval again with --log_samples."

Line = Mapping[str, Any]


def read_folder(folder: Path, policy: GatePolicy) -> GateEvidence:
    """Evidence of one model from evidence/NAME of a registry, or from lm-eval's output folder.

    Raises WrongKindOfPath when `folder` is neither, UnusableEvidence for samples that cannot carry
    a decision, and what `read_evidence` raises.
    """
    if not folder.is_dir():
        raise WrongKindOfPath(folder, "a folder of evaluation results")
    if (folder / EVALUATIONS_FOLDER).is_dir():
        return read_evidence(folder.absolute())
    files = _sample_files(folder)
    summary = _summary(folder)
    tasks: list[TaskResult] = []
    items: dict[str, list[ItemResult]] = {}
    for task, path in sorted(files.items()):
        lines = list(_lines(path))
        _check_count(path, task, lines, summary)
        for label, metric, group in _series(path, task, lines, policy):
            items[label] = [_item(path, label, metric, line) for line in group]
            direction = _direction(path, metric, summary.get(task, {}))
            tasks.append(_result(label, metric, items[label], direction))
    digests = {path.name: sha256_file(path) for path in files.values()}
    record = EvaluationRecord(
        name=folder.name,
        # No file of lm-eval's names the weights: these results stand for themselves.
        weight_digest=sha256_bytes(canonical_json(sorted(digests.values()))),
        suite=SUITE,
        suite_sha256="",
        code_digest="",
        engine="lm-eval",
        dtype="",
        template_sha256="",
        tasks=tuple(tasks),
        items_sha256="",
    )
    named = {f"{folder.name}/{name}": digest for name, digest in digests.items()}
    return GateEvidence(suites=[SuiteEvidence(record=record, items=items)], files=named)


def _sample_files(folder: Path) -> dict[str, Path]:
    """Task to its one file of samples; lm-eval puts them into a folder named by the model."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("samples_*.jsonl")):
        match = _SAMPLES.fullmatch(path.name)
        task = match["task"] if match else path.stem.removeprefix("samples_")
        if task in found:
            fact = f"two files of samples for {task}: {found[task].name} and {path.name}"
            raise UnusableEvidence(str(folder), fact, "Keep the files of one run.")
        found[task] = path
    if not found:
        raise WrongKindOfPath(folder, "a folder with samples_TASK_TIME.jsonl of lm-eval")
    return found


def _summary(folder: Path) -> dict[str, dict[str, Any]]:
    """What results_*.json says of each task: directions of metrics, number of samples."""
    said: dict[str, dict[str, Any]] = defaultdict(dict)
    for path in sorted(folder.rglob("results_*.json")):
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise UnusableEvidence(str(path), f"not JSON ({error})", _AGAIN) from error
        if not isinstance(content, dict):
            raise UnusableEvidence(str(path), "it holds no JSON object", _AGAIN)
        for task, directions in content.get("higher_is_better", {}).items():
            said[task]["higher_is_better"] = directions
        for task, counts in content.get("n-samples", {}).items():
            said[task]["items"] = counts.get("effective")
    return dict(said)


def _lines(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
            except ValueError as error:
                fact = f"line {number} is not JSON ({error})"
                raise UnusableEvidence(str(path), fact, _AGAIN) from error
            if not isinstance(line, dict) or not isinstance(line.get("doc_id"), int):
                raise UnusableEvidence(str(path), f"line {number} has no doc_id", _AGAIN)
            yield line


def _check_count(
    path: Path, task: str, lines: Sequence[Line], summary: Mapping[str, Mapping[str, Any]]
) -> None:
    expected = summary.get(task, {}).get("items")
    documents = len({line["doc_id"] for line in lines})
    if not lines:
        raise UnusableEvidence(str(path), "there are no items", _AGAIN)
    if expected is not None and documents != expected:
        fact = f"{documents} documents, and results_*.json counts {expected}"
        raise UnusableEvidence(str(path), fact, _AGAIN)


def _series(
    path: Path, task: str, lines: Sequence[Line], policy: GatePolicy
) -> Iterator[tuple[str, str, list[Line]]]:
    """The series to judge: label, metric, and one line a document."""
    by_filter: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_filter[str(line.get("filter", "none"))].append(line)
    series = {
        (str(metric), name): group
        for name, group in by_filter.items()
        for metric in group[0].get("metrics", ())
    }
    rule = policy.rule(f"{SUITE}/{task}")
    if rule is not None and rule.metric is not None:
        metric, _, name = rule.metric.partition(",")
        chosen = {k: v for k, v in series.items() if k[0] == metric and name in ("", k[1])}
        if len(chosen) != 1:
            there = ", ".join(sorted(f"{metric},{name}" for metric, name in series))
            fact = f"the policy asks for {rule.metric}, and the samples hold {there or 'no metric'}"
            raise UnusableEvidence(str(path), fact, "Name one of them as metric,filter.")
        yield task, rule.metric, next(iter(chosen.values()))
        return
    if not series:
        raise UnusableEvidence(str(path), "its lines name no metric", _AGAIN)
    for (metric, name), group in sorted(series.items()):
        label = task if len(series) == 1 else f"{task}:{metric}"
        yield (label if len(by_filter) == 1 else f"{label},{name}"), metric, group


def _item(path: Path, label: str, metric: str, line: Line) -> ItemResult:
    about = f"{path}, document {line['doc_id']}"
    score = line.get(metric.partition(",")[0])
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        fact = f"its {metric} is {score!r}, which is no number for one document"
        raise UnusableEvidence(about, fact, "Name a metric in the policy that is scored by item.")
    if not (math.isfinite(score) and _all_finite(line.get("resps"))):
        fact = f"its {metric} or an answer behind it is not a finite number"
        raise UnusableEvidence(about, fact, "Check the weights for NaN, and evaluate again.")
    return ItemResult(
        task=label,
        doc_id=line["doc_id"],
        doc_hash=str(line.get("doc_hash") or _digest(line.get("doc"))),
        prompt_hash=str(line.get("prompt_hash") or _digest(line.get("arguments"))),
        target_hash=str(line.get("target_hash") or _digest(line.get("target"))),
        metric=metric,
        score=float(score),
        answer=json.dumps(line.get("filtered_resps"), ensure_ascii=False),
        gold=str(line.get("target", "")),
        slice="",
    )


def _direction(path: Path, metric: str, said: Mapping[str, Any]) -> bool:
    """Whether more of a metric is better: lm-eval's own word, else what is known of its name."""
    name = metric.partition(",")[0]
    stated = (said.get("higher_is_better") or {}).get(name)
    if isinstance(stated, bool):
        return stated
    if name in _HIGHER_IS_BETTER or name in _LOWER_IS_BETTER:
        return name in _HIGHER_IS_BETTER
    fact = f"whether more {name} is better is not known"
    raise UnusableEvidence(str(path), fact, "Keep lm-eval's results_*.json beside the samples.")


def _result(
    label: str, metric: str, items: Sequence[ItemResult], higher_is_better: bool
) -> TaskResult:
    return TaskResult(
        task=label,
        metric=metric,
        higher_is_better=higher_is_better,
        items=len(items),
        value=math.fsum(item.score for item in items) / len(items),
        stderr=None,
        task_sha256="",
        data_sha256="",  # documents are compared one by one
    )


def _all_finite(value: Any) -> bool:
    """Whether no number within an answer is NaN or infinite; lm-eval writes them as text too."""
    if isinstance(value, (list, tuple)):
        return all(_all_finite(inner) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not (isinstance(value, str) and value.strip().lower() in ("nan", "inf", "-inf"))


def _digest(value: Any) -> str:
    return sha256_bytes(json.dumps(value, sort_keys=True, default=str).encode()) if value else ""
