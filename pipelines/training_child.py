"""The process that trains: tokenise, check the data, train, merge, compare.

One process for all of it, because importing transformers and TRL costs more CPU than any step but
the training itself. It has no network: what it loads lies in the folders that it is given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipelines.adapter_training import copy_adapter, device, losses, train_adapter
from pipelines.canonical import Frozen, sha256_file
from pipelines.dataset_checks import RESULTS_FILE, check_dataset
from pipelines.errors import DatasetRefused, TemplateNotTrainable, TrainingRefused
from pipelines.file_lock import exclusive
from pipelines.merge import Merge, bind_adapter, merge_adapter
from pipelines.parity import largest_difference
from pipelines.recipe import Recipe
from pipelines.subprocesses import run_module, serve
from pipelines.training_rows import read_rows
from pipelines.training_template import training_template
from pipelines.training_tokens import TokenisedRow, tokenise


class TrainingWork(Frozen):
    """What the child is to do. The outputs do not exist yet; `work` holds checkpoints."""

    name: str
    base: Path
    base_digest: str
    dataset: Path
    dataset_sha256: str
    recipe: Recipe
    work: Path
    weights_out: Path
    adapter_out: Path
    checks_out: Path


class Refusal(Frozen):
    """A refusal, as it crosses from the child to the stage."""

    kind: Literal["dataset", "template", "training"]
    facts: tuple[str, ...]


class Trained(Frozen):
    """What came of it."""

    rows: int
    rows_without_loss: int
    losses: tuple[float, ...]
    data_checks_sha256: str
    merge: Merge
    parity: float
    device: str


class Answer(Frozen):
    """Exactly one of the two."""

    refusal: Refusal | None = None
    trained: Trained | None = None


def train(work: TrainingWork) -> Trained:
    """Carry the work out in a child process.

    Raises DatasetRefused, TemplateNotTrainable, TrainingRefused, CommandFailed or NoSpaceLeft.
    """
    given = Answer.model_validate(
        run_module("pipelines.training_child", work, env=environment(work.recipe))
    )
    if (refusal := given.refusal) is not None:
        if refusal.kind == "dataset":
            raise DatasetRefused(work.dataset, refusal.facts)
        if refusal.kind == "template":
            raise TemplateNotTrainable(work.base, refusal.facts[0])
        raise TrainingRefused(work.name, refusal.facts[0], refusal.facts[1])
    assert given.trained is not None
    return given.trained


def environment(recipe: Recipe) -> dict[str, str]:
    """What must not differ between two runs, or reach outside: one device, threads, hash seed."""
    return {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(recipe.threads),
        # Threads that spin while they wait for one that is not scheduled cost four times the CPU
        # on a busy machine; on an idle one it makes no difference that was seen.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


def answer(request: bytes) -> dict[str, object]:
    """The child's side of `train`: a TrainingWork in, an Answer out."""
    work = TrainingWork.model_validate_json(request)
    try:
        # The stage that started a killed run dies before its child does: wait for that one.
        with exclusive(work.work / "child.lock", f"train {work.name}"):
            given = Answer(trained=carry_out(work))
    except DatasetRefused as error:
        given = Answer(refusal=Refusal(kind="dataset", facts=error.reasons))
    except TemplateNotTrainable as error:
        given = Answer(refusal=Refusal(kind="template", facts=(error.fact,)))
    except TrainingRefused as error:
        given = Answer(refusal=Refusal(kind="training", facts=(error.fact, error.remedy)))
    return given.model_dump(mode="json")


def carry_out(work: TrainingWork) -> Trained:
    """Carry the work out in this process; raises as `train` does."""
    import torch
    from transformers import AutoTokenizer

    recipe = work.recipe
    torch.set_num_threads(recipe.threads)
    rows = read_rows(work.dataset)
    tokenizer = AutoTokenizer.from_pretrained(str(work.base), local_files_only=True)
    template = training_template(tokenizer, recipe.training_template, str(work.base))
    tokenised = tokenise(tokenizer, rows, template, max_length=recipe.max_length, base=work.base)
    check_dataset(work.dataset, work.dataset_sha256, recipe, rows, tokenised, work.checks_out)
    checkpoint = train_adapter(work.name, work.base, tokenised, recipe, work.work)
    copy_adapter(checkpoint, work.adapter_out)
    bind_adapter(work.adapter_out, work.base_digest)
    merge = merge_adapter(
        work.name, work.base, work.base_digest, work.adapter_out, work.weights_out
    )
    return Trained(
        rows=len(rows),
        rows_without_loss=sum(row.answer_tokens == 0 for row in tokenised),
        losses=losses(checkpoint),
        data_checks_sha256=sha256_file(work.checks_out / RESULTS_FILE),
        merge=merge,
        parity=_parity(work, tokenised),
        device=device(),
    )


def _parity(work: TrainingWork, tokenised: Sequence[TokenisedRow]) -> float:
    """The largest difference on the first rows; raises TrainingRefused above the recipe's bound."""
    rule = work.recipe.parity
    sequences = [row.input_ids for row in tokenised[: rule.rows]]
    difference = largest_difference(work.base, work.adapter_out, work.weights_out, sequences)
    if not difference <= rule.max_logprob_difference:  # not a number is refused too
        raise TrainingRefused(
            work.name,
            f"merged weights and adapter differ by {difference} nats on a token, more than the "
            f"{rule.max_logprob_difference} that the recipe allows",
            "Train with a smaller scale (alpha / r), or on a base in float32.",
        )
    return difference


if __name__ == "__main__":
    serve(answer)
