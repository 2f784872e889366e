"""Training a LoRA adapter with TRL and PEFT, in steps that survive a kill.

The adapter is a function of base, rows and recipe: seeds and threads are fixed, rows are fed by
this process, and on a CPU a resumed run gives the bytes that an uninterrupted one gives. What is
kept is always the sealed checkpoint of the last step.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.checkpoints import PREFIX, checkpoints_folder, latest_sealed, seal
from pipelines.errors import TrainingRefused
from pipelines.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from pipelines.progress import report
from pipelines.recipe import Recipe
from pipelines.training_order import order_rows
from pipelines.training_tokens import IGNORED, TokenisedRow

_KEPT_CHECKPOINTS = 2  # a kill during a save leaves the one before


def train_adapter(
    name: str, base: Path, rows: Sequence[TokenisedRow], recipe: Recipe, work: Path
) -> Path:
    """Train to the recipe's last step, from the newest sealed checkpoint in `work` if there is one.

    Returns the sealed checkpoint of the last step. Raises TrainingRefused when the recipe does not
    fit the base, or when a loss is not finite.
    """
    last = f"{PREFIX}{recipe.steps}"
    start = latest_sealed(work)
    if start is None or start.name != last:
        trainer = _trainer(name, base, rows, recipe, work)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
        start = latest_sealed(work)
    if start is None or start.name != last:
        raise TrainingRefused(
            name,
            "the loss is not finite",
            "Lower the learning rate, or look for a row that the model cannot take.",
        )
    return start


def losses(checkpoint: Path) -> tuple[float, ...]:
    """The loss of every step up to this checkpoint, in nats per token of the answers."""
    state = json.loads((checkpoint / "trainer_state.json").read_bytes())
    logged = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    return tuple(round(float(logged[step]), 6) for step in sorted(logged))


def copy_adapter(checkpoint: Path, out: Path) -> None:
    """The adapter's own files of a checkpoint, and none of the trainer's."""
    out.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(checkpoint / name, out / name)


def device() -> str:
    """'cuda' when this process sees an accelerator, else 'cpu'."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _trainer(
    name: str, base: Path, rows: Sequence[TokenisedRow], recipe: Recipe, work: Path
) -> Any:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report(0, recipe.steps, "steps", f"train {name}")
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=getattr(torch, recipe.dtype), local_files_only=True, use_safetensors=True
    )
    _check_fit(name, model, recipe)
    taught = [row for row in rows if row.answer_tokens]
    order = order_rows([len(row.input_ids) for row in taught], recipe)
    return _answer_trainer_class()(
        model=model,
        args=_arguments(recipe, work),
        train_dataset=Dataset.from_list(
            [{"input_ids": row.input_ids, "labels": row.labels} for row in taught]
        ).select(order),
        processing_class=AutoTokenizer.from_pretrained(str(base), local_files_only=True),
        peft_config=_lora_config(model, recipe),
        callbacks=[_keeper_class()(name, work)],
    )


def _check_fit(name: str, model: Any, recipe: Recipe) -> None:
    """Raise TrainingRefused when the recipe asks for what this base does not have."""
    config = model.config.get_text_config()
    there = {path.rpartition(".")[2] for path, _ in model.named_modules()}
    facts = []
    if missing := sorted(set(recipe.lora.target_modules) - there):
        facts.append(f"the base has no module named {', '.join(missing)}")
    if recipe.lora.first_layer >= config.num_hidden_layers:
        facts.append(f"first_layer is {recipe.lora.first_layer} of {config.num_hidden_layers}")
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and recipe.max_length > longest:
        facts.append(f"max_length is {recipe.max_length}, and the base takes {longest} tokens")
    if facts:
        raise TrainingRefused(name, "; ".join(facts), "Correct the recipe.")


def _lora_config(model: Any, recipe: Recipe) -> Any:
    from peft import LoraConfig

    lora = recipe.lora
    layers = range(lora.first_layer, model.config.get_text_config().num_hidden_layers)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=sorted(lora.target_modules),
        layers_to_transform=list(layers) if lora.first_layer else None,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _arguments(recipe: Recipe, work: Path) -> Any:
    from trl import SFTConfig

    on_cpu = device() == "cpu"
    return SFTConfig(
        output_dir=str(checkpoints_folder(work)),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch",
        max_length=None,  # rows come cut and labelled, so that the checks saw what is trained on
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=on_cpu,
        bf16=False,  # the base has the recipe's type already, and the adapter stays float32
        seed=recipe.seed,
        train_sampling_strategy="sequential",  # the rows come in the order of training_order
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=_KEPT_CHECKPOINTS,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen
        report_to="none",
        disable_tqdm=True,
    )


def _keeper_class() -> type:
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):  # type: ignore[misc]
        """Seals checkpoints, reports steps, and stops at a loss that is not finite."""

        def __init__(self, name: str, work: Path) -> None:
            self._name, self._work = name, work

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            report(state.global_step, state.max_steps, "steps", f"train {self._name}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seal(self._work, state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not math.isfinite(float((logs or {}).get("loss", 0.0))):
                control.should_training_stop = True
                control.should_save = False

    return Keeper


def _answer_trainer_class() -> type:
    import torch
    from trl import SFTTrainer

    class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer that, on a CPU, computes logits only where a loss is taken.

        TRL scores every position of every row on a CPU (its kernel for accelerators does not).
        With short answers to long prompts that is more than half of the work.
        """

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """Summed cross-entropy of the answers' tokens over their number, as TRL defines it."""
            if self.args.device.type != "cpu" or return_outputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            labels = inputs["labels"][:, 1:]
            mask = labels != IGNORED
            columns = mask.any(dim=0).nonzero()[:, 0]  # positions with a loss in some row
            passed = {key: value for key, value in inputs.items() if key != "labels"}
            logits = model(**passed, use_cache=False, logits_to_keep=columns).logits
            kept = mask[:, columns]
            loss = torch.nn.functional.cross_entropy(
                logits[kept].float(), labels[:, columns][kept], reduction="sum"
            )
            items = kept.sum() if num_items_in_batch is None else num_items_in_batch
            return loss / items

    return AnswerTrainer
