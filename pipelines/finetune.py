"""The stage `finetune`: check the data, train a LoRA adapter, merge it into its base.

On one machine's CPU the outputs are a function of base, data, recipe and environment. A killed
run keeps its checkpoints under `work`, in a folder named by the digest of all that decides the
result, and the next run with the same inputs goes on from the last complete one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.canonical import (
    Frozen,
    canonical_json,
    record_bytes,
    sha256_bytes,
    write_bytes,
    write_record,
)
from pipelines.digest import FileEntry, build_manifest, check_digest, weight_digest
from pipelines.errors import NoSpaceLeft, Refused, is_disk_full
from pipelines.file_lock import exclusive
from pipelines.recipe import Recipe
from pipelines.records import Ancestor, Derivation, ManifestRecord, TrainingRecord
from pipelines.template import template_sha256
from pipelines.training_child import Trained, TrainingWork, train
from pipelines.training_report import training_card

ADAPTER = "adapter"
DATA_CHECKS = "data_checks"
LICENCES = "licences"
_TOOLS = ("accelerate", "datasets", "peft", "safetensors", "torch", "transformers", "trl")


class FinetuneConfig(Frozen):
    """One tuning. `dataset_sha256` is the weight digest of the data set's folder.

    `base_origin` is the evidence of where the base came from: its licence texts go on to the tuned
    model. `work` keeps the checkpoints of unfinished trainings; it is best on a disk that outlives
    the run, and nothing of it remains after a training that succeeds.
    """

    name: str
    base_name: str
    base_manifest: ManifestRecord
    base_origin: Path
    recipe: Recipe
    recipe_sha256: str
    dataset_name: str
    dataset_sha256: str
    code_digest: str
    work: Path


def finetune(
    config: FinetuneConfig, base: Path, dataset: Path, weights_out: Path, origin_out: Path
) -> TrainingRecord:
    """Train on `dataset` and write the merged model into `weights_out` (new).

    `origin_out` (new) receives training.json, manifest.json, model_card.md, the adapter bound to
    the base's digest under adapter/, the data checks under data_checks/, and the base's licence
    texts under licences/. On any error both may be half-filled, and the caller drops them.

    Raises DigestMismatch when base or data are other bytes, DatasetRefused, TemplateNotTrainable,
    TrainingRefused, CommandFailed or NoSpaceLeft.
    """
    check_digest(base, config.base_manifest.weight_digest)
    check_digest(dataset, config.dataset_sha256)
    key = inputs_digest(config)
    work = config.work.absolute() / key
    order = TrainingWork(
        name=config.name,
        base=base.absolute(),
        base_digest=config.base_manifest.weight_digest,
        dataset=dataset.absolute(),
        dataset_sha256=config.dataset_sha256,
        recipe=config.recipe,
        work=work,
        weights_out=weights_out.absolute(),
        adapter_out=origin_out.absolute() / ADAPTER,
        checks_out=origin_out.absolute() / DATA_CHECKS,
    )
    try:
        with exclusive(config.work / f"{key}.lock", f"train {config.name}"):
            origin_out.mkdir()
            record = _write(config, _train(order), weights_out, origin_out)
            shutil.rmtree(work)
    except OSError as error:
        if is_disk_full(error):
            raise NoSpaceLeft(error.filename or weights_out.parent) from error
        raise
    return record


def inputs_digest(config: FinetuneConfig) -> str:
    """sha256 over everything that decides the adapter; names the folder of its checkpoints."""
    return sha256_bytes(
        canonical_json(
            {
                "base": config.base_manifest.weight_digest,
                "dataset": config.dataset_sha256,
                "recipe": config.recipe.model_dump(mode="json"),
                "code": config.code_digest,
                "tools": _tools(),
            }
        )
    )


def _train(order: TrainingWork) -> Trained:
    """Train in the work folder; a refusal would come again, so its checkpoints are of no use."""
    order.work.mkdir(exist_ok=True, mode=0o700)
    try:
        return train(order)
    except Refused:
        shutil.rmtree(order.work)
        raise


def _write(
    config: FinetuneConfig, trained: Trained, weights_out: Path, origin_out: Path
) -> TrainingRecord:
    """Hash what was made and state how, as records and as a card."""
    files, adapter = build_manifest(weights_out), build_manifest(origin_out / ADAPTER)
    record = _record(config, trained, weights_out, (weight_digest(files), weight_digest(adapter)))
    manifest = _manifest(config, record, files, adapter)
    texts = config.base_origin / LICENCES
    if texts.is_dir():
        shutil.copytree(texts, origin_out / LICENCES)
    write_record(origin_out / "training.json", record)
    write_record(origin_out / "manifest.json", manifest)
    card = training_card(record, manifest, config.base_manifest)
    write_bytes(origin_out / "model_card.md", card.encode())
    return record


def _record(
    config: FinetuneConfig, trained: Trained, weights: Path, digests: tuple[str, str]
) -> TrainingRecord:
    """`digests` are those of the merged weights and of the adapter."""
    merged, adapter = digests
    return TrainingRecord(
        name=config.name,
        weight_digest=merged,
        adapter_digest=adapter,
        base=config.base_name,
        base_digest=config.base_manifest.weight_digest,
        recipe_sha256=config.recipe_sha256,
        dataset=config.dataset_name,
        dataset_sha256=config.dataset_sha256,
        code_digest=config.code_digest,
        rows=trained.rows,
        rows_without_loss=trained.rows_without_loss,
        steps=config.recipe.steps,
        losses=trained.losses,
        template_sha256=template_sha256(weights),
        data_checks_sha256=trained.data_checks_sha256,
        parity_max_logprob_difference=trained.parity,
        settings={
            **_flat(config.recipe.model_dump(mode="json")),
            "device": trained.device,
            "tensors_adapted": trained.merge.adapted,
            "tensors_altered": trained.merge.altered,
        },
        tools=_tools(),
    )


def _manifest(
    config: FinetuneConfig,
    record: TrainingRecord,
    files: tuple[FileEntry, ...],
    adapter: tuple[FileEntry, ...],
) -> ManifestRecord:
    """The tuned model's manifest. It states no licence of its own: those of its line bind it."""
    base = config.base_manifest
    parent = Ancestor(
        name=config.base_name,
        weight_digest=base.weight_digest,
        relation="merged-from",
        licences=base.licences,
    )
    return ManifestRecord(
        name=config.name,
        weight_digest=record.weight_digest,
        files=files,
        reference=f"tuning:{config.name}",
        code_digest=config.code_digest,
        derivation=Derivation(
            method="lora-merge",
            source_files=adapter,
            settings={
                "adapter_digest": record.adapter_digest,
                "base_digest": base.weight_digest,
                "training_sha256": sha256_bytes(record_bytes(record)),
            },
            tools=record.tools,
        ),
        pedigree=(parent, *base.pedigree),
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as `lora.r: 8`; lists joined by commas, what is not set left out."""
    flat: dict[str, str | int | float | bool] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat.update(_flat(inner, f"{prefix}{key}."))
        elif isinstance(inner, list):
            flat[prefix + key] = ",".join(str(entry) for entry in inner)
        elif inner is not None:
            flat[prefix + key] = inner
    return flat


def _tools() -> dict[str, str]:
    return {name: version(name) for name in _TOOLS}
