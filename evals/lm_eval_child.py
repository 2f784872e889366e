"""The process that runs lm-eval: tasks and weights in, per-item outcomes out.

It judges nothing. What it returns may hold NaN, texts where numbers belong, or less than was asked
for; `evals.scoring` refuses that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from evals.block_store import BlockResult, BlockStore, ScoredItem, ScoredTask
from evals.blocks import Block
from evals.engines import EngineConfig, RequestTooLong, describe_engine, load_engine
from pipelines.canonical import Frozen, sha256_bytes
from pipelines.progress import report
from pipelines.subprocesses import run_module, serve

PROBE_CONTINUATION = " the"


class TaskRequest(Frozen):
    """One task: which of lm-eval's results are wanted, of which items."""

    metric: str
    filter: str
    blocks: tuple[Block, ...]


class ScoringRequest(Frozen):
    """What to run; `tasks_folder` holds task files that name their data by absolute path.

    Blocks are kept in `store`, '' for nowhere, as soon as they are scored, if the model renders
    with the template `template_sha256`.
    """

    engine: EngineConfig
    apply_chat_template: bool
    template_sha256: str
    store: str
    tasks_folder: str
    tasks: dict[str, TaskRequest]


class ScoringResponse(Frozen):
    """What the child found, by key of block, or why it did not end."""

    too_long: str = ""
    template_sha256: str = ""
    blocks: Mapping[str, BlockResult] = Field(default_factory=dict)


def run_lm_eval(request: ScoringRequest, env: Mapping[str, str]) -> ScoringResponse:
    """Run the child and parse what it returns; raises CommandFailed when it ends with an error."""
    answered = run_module("evals.lm_eval_child", request, env=env)
    return ScoringResponse.model_validate(answered)


def answer(body: bytes) -> dict[str, Any]:
    """Evaluate: request as JSON, ScoringResponse as a dictionary."""
    request = ScoringRequest.model_validate_json(body)
    report(0, 0, "requests", f"{request.engine.what}: loading")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=request.tasks_folder, include_defaults=False)
    loaded = manager.load(list(request.tasks))
    tasks = dict(loaded["tasks"])
    model = load_engine(request.engine)
    template = _template_sha256(model)
    keeps = bool(request.store) and template == request.template_sha256
    store = BlockStore(Path(request.store)) if keeps else None
    engine = describe_engine(request.engine)
    found: dict[str, BlockResult] = {}
    for name, wanted in request.tasks.items():
        items = tasks[name].dataset["test"]
        for block in wanted.blocks:
            place = f"{name}, items {block.start + 1} to {block.stop} of {len(items)}"
            model.what = f"{request.engine.what}: {place}"
            tasks[name].dataset["test"] = items.select(range(block.start, block.stop))
            try:
                scored = _score_block(request, model, tasks[name])
            except RequestTooLong as error:
                return ScoringResponse(too_long=f"{place}: {error}").model_dump()
            result = BlockResult(engine=engine, scored=scored, tokens=model.take_tokens())
            if store is not None:
                store.put(block.key, result)
            found[block.key] = result
    return ScoringResponse(template_sha256=template, blocks=found).model_dump()


def _score_block(request: ScoringRequest, model: Any, task: Any) -> ScoredTask:
    """What lm-eval's `simple_evaluate` does for one task, without its reports of the machine."""
    import random

    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate

    seed = request.engine.seed
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    task.set_fewshot_seed(seed=seed)
    name = task.config.task
    results = evaluate(
        lm=model,
        task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
        apply_chat_template=request.apply_chat_template,
        log_samples=True,
        bootstrap_iters=0,  # the standard error is that of the whole task, not of a block
    )
    return _scored_task(name, request.tasks[name], task, results, model)


def _scored_task(
    name: str, wanted: TaskRequest, task: Any, results: Mapping[str, Any], model: Any
) -> ScoredTask:
    found = results["results"].get(name, {})
    samples = [s for s in results["samples"].get(name, []) if s["filter"] == wanted.filter]
    items = tuple(_item(sample, wanted, task) for sample in samples)
    unscored = bool(samples) and not items[0].outputs
    return ScoredTask(
        value=_plain(found.get(f"{wanted.metric},{wanted.filter}")),
        higher_is_better=results["higher_is_better"].get(name, {}).get(wanted.metric),
        items=items,
        probe=_probe(model, samples[0]["arguments"][0][0]) if unscored else None,
    )


def _item(sample: Mapping[str, Any], wanted: TaskRequest, task: Any) -> ScoredItem:
    given, gold = _answer_and_gold(sample, wanted.metric, task)
    score = _plain(sample.get(wanted.metric))
    return ScoredItem(
        doc_id=sample["doc_id"],
        doc_hash=sample["doc_hash"],
        prompt_hash=sample["prompt_hash"],
        target_hash=sample["target_hash"],
        score=float(score) if isinstance(score, (int, float)) else None,
        answer=given,
        gold=gold,
        prompt=str(sample["arguments"][0][0]),
        outputs=tuple(_likelihoods(sample["resps"])),
    )


def _answer_and_gold(sample: Mapping[str, Any], metric: str, task: Any) -> tuple[str, str | None]:
    """The model's choice or text, and the right one; None when the item names no such choice."""
    target, first = sample["target"], sample["filtered_resps"][0]
    if task.OUTPUT_TYPE == "generate_until":
        return str(first[0] if isinstance(first, list) else first), str(target)
    if task.OUTPUT_TYPE == "loglikelihood":
        return str(target) if first[1] else "", str(target)
    choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
    scores = [float(pair[0]) for pair in sample["filtered_resps"]][: len(choices)]
    lengths = {
        "acc_norm": [len(choice) for choice in choices],
        "acc_bytes": [len(choice.encode()) for choice in choices],
    }.get(metric, [1] * len(choices))
    shares = [score / max(length, 1) for score, length in zip(scores, lengths, strict=True)]
    given = choices[max(range(len(choices)), key=lambda i: (shares[i], -i))]
    golds = [_choice(choices, one) for one in (target if isinstance(target, list) else [target])]
    known = [gold for gold in golds if gold is not None]
    return given, " | ".join(known) if known and len(known) == len(golds) else None


def _choice(choices: Sequence[str], target: int | str) -> str | None:
    if isinstance(target, int):
        return choices[target] if 0 <= target < len(choices) else None
    return target if target in choices else None


def _likelihoods(responses: Any) -> list[float]:
    """Every number of a model in an item's responses; answers that are text have none."""
    if isinstance(responses, bool):  # whether the continuation was the likeliest one
        return []
    if isinstance(responses, (int, float)):
        return [float(responses)]
    if isinstance(responses, (list, tuple)):
        return [number for response in responses for number in _likelihoods(response)]
    return []


def _probe(model: Any, context: str) -> float:
    """Log likelihood of one token after a task's first prompt.

    A model with NaN in its weights still writes text, so a task of texts shows nothing.
    """
    from lm_eval.api.instance import Instance

    asked = Instance("loglikelihood", {}, (context, PROBE_CONTINUATION), 0)
    return float(model.loglikelihood([asked])[0][0])


def _template_sha256(model: Any) -> str:
    """sha256 of the template that lm-eval renders with, '' when the tokenizer has none."""
    text = getattr(model, "hf_chat_template", None) or model.tokenizer.chat_template
    if isinstance(text, dict):
        text = text.get("default")
    return sha256_bytes(text.encode()) if text else ""


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, everything else as it is."""
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    serve(answer)
