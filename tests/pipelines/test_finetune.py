"""A tuning is a function of its inputs, survives a kill, and is bound to its base's bytes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines import training_child
from pipelines.canonical import sha256_file
from pipelines.checkpoints import checkpoints_folder, latest_sealed, seal
from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import (
    AdapterForOtherBase,
    DatasetRefused,
    DigestMismatch,
    TemplateNotTrainable,
    TrainingRefused,
)
from pipelines.finetune import FinetuneConfig, finetune, inputs_digest
from pipelines.merge import bind_adapter, check_adapter_base, merge_adapter
from pipelines.recipe import DatasetRules, LoraSettings, Recipe
from pipelines.records import LicenceClaim, ManifestRecord, TrainingRecord, read_record
from pipelines.template import template_sha256
from pipelines.training_child import TrainingWork
from tests.tiny_chat_model import save_model

RECIPE = Recipe(
    lora=LoraSettings(r=4, alpha=8, target_modules=("q_proj", "v_proj"), first_layer=1),
    checks=DatasetRules(min_rows=8, allowed_licences=("CC0-1.0",)),
    steps=4,
    batch_size=4,
    gradient_accumulation=2,
    learning_rate=0.05,
    warmup_steps=1,
    max_length=128,
    threads=1,
    save_steps=2,
)
KILL_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from pipelines import adapter_training, checkpoints, training_child

def seal(work, step):
    if step == 4:
        (work / "checkpoints/checkpoint-4/optimizer.pt").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.seal(work, step)

adapter_training.seal = seal
training_child.carry_out(training_child.TrainingWork.model_validate_json(Path(sys.argv[1]).read_bytes()))
"""


class Inputs(NamedTuple):
    """A base, its data, and the configuration that joins them."""

    base: Path
    dataset: Path
    config: FinetuneConfig


class Result(NamedTuple):
    """The folders of one tuning, and its record."""

    weights: Path
    origin: Path
    record: TrainingRecord


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("tuning")
    save_model(root / "base")
    write_rows(root / "data")
    texts = root / "origin" / "licences"
    texts.mkdir(parents=True)
    (texts / "LICENSE").write_text("Terms.\n")
    files = build_manifest(root / "base")
    manifest = ManifestRecord(
        name="tiny",
        weight_digest=weight_digest(files),
        files=files,
        reference="file:///tiny",
        code_digest="c" * 64,
        licences=(LicenceClaim(source="README.md", identifier="apache-2.0"),),
    )
    config = FinetuneConfig(
        name="tiny-parity",
        base_name="tiny",
        base_manifest=manifest,
        base_origin=root / "origin",
        recipe=RECIPE,
        recipe_sha256="e" * 64,
        dataset_name="parity",
        dataset_sha256=weight_digest(build_manifest(root / "data")),
        code_digest="f" * 64,
        work=root / "work",
    )
    return Inputs(root / "base", root / "data", config)


def write_rows(folder: Path, answer_of: Any = lambda n: "odd" if n % 2 else "even") -> None:
    folder.mkdir()
    rows = [
        {
            "id": f"r{n}",
            "messages": [
                {"role": "user", "content": f"Is the number {n} even or odd?"},
                {"role": "assistant", "content": f"It is {answer_of(n)}."},
            ],
        }
        for n in range(16)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")


def run(inputs: Inputs, out: Path) -> Result:
    out.mkdir()
    record = finetune(inputs.config, inputs.base, inputs.dataset, out / "weights", out / "origin")
    return Result(out / "weights", out / "origin", record)


@pytest.fixture(scope="module")
def tuned(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(inputs, tmp_path_factory.mktemp("tuned") / "out")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's own code, without the seconds that starting another interpreter takes."""

    def run_here(module: str, request: TrainingWork, env: Any) -> dict[str, object]:
        return training_child.answer(request.model_dump_json().encode())

    monkeypatch.setattr(training_child, "run_module", run_here)


def test_the_record_states_how_the_weights_were_made(inputs: Inputs, tuned: Result) -> None:
    record = tuned.record
    assert read_record(tuned.origin / "training.json", TrainingRecord) == record
    assert record.weight_digest == weight_digest(build_manifest(tuned.weights))
    assert record.base_digest == inputs.config.base_manifest.weight_digest
    assert record.dataset_sha256 == inputs.config.dataset_sha256
    assert (record.rows, record.rows_without_loss, record.steps) == (16, 0, 4)
    assert len(record.losses) == 4
    assert record.losses[-1] < record.losses[0]
    assert record.settings["lora.target_modules"] == "q_proj,v_proj"
    assert record.settings["device"] in ("cpu", "cuda")
    assert 0 < record.parity_max_logprob_difference <= RECIPE.parity.max_logprob_difference
    checks = tuned.origin / "data_checks" / "results.json"
    assert record.data_checks_sha256 == sha256_file(checks)
    assert list(inputs.config.work.glob("*/checkpoints")) == []


def test_tokenizer_template_and_configuration_keep_their_bytes(
    inputs: Inputs, tuned: Result
) -> None:
    base = {f.path: f.sha256 for f in build_manifest(inputs.base)}
    merged = {f.path: f.sha256 for f in build_manifest(tuned.weights)}
    assert base.keys() == merged.keys()
    assert {path for path in base if base[path] != merged[path]} == {"model.safetensors"}
    assert tuned.record.template_sha256 == template_sha256(inputs.base)


def test_only_the_adapted_tensors_change(inputs: Inputs, tuned: Result) -> None:
    from safetensors.torch import load_file

    base = load_file(inputs.base / "model.safetensors")
    merged = load_file(tuned.weights / "model.safetensors")
    changed = {key for key in base if not base[key].equal(merged[key])}
    assert changed == {
        f"model.layers.{layer}.self_attn.{module}.weight"
        for layer in (1, 2)
        for module in ("q_proj", "v_proj")
    }
    assert {key: t.dtype for key, t in base.items()} == {key: t.dtype for key, t in merged.items()}


def test_the_adapter_is_bound_to_the_digest_of_its_base(inputs: Inputs, tuned: Result) -> None:
    digest = inputs.config.base_manifest.weight_digest
    adapter = tuned.origin / "adapter"
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = check_adapter_base(adapter, digest)
    assert config["base_model_name_or_path"] == f"sha256:{digest}"
    assert str(inputs.base) not in (adapter / "adapter_config.json").read_text()
    assert tuned.record.adapter_digest == weight_digest(build_manifest(adapter))


@pytest.mark.parametrize("stated", ["org/model", "/models/base", "sha256:" + "0" * 64, None])
def test_an_adapter_of_another_base_is_refused(
    inputs: Inputs, tuned: Result, tmp_path: Path, stated: str | None
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(tuned.origin / "adapter", adapter)
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    config["base_model_name_or_path"] = stated
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    digest = inputs.config.base_manifest.weight_digest
    with pytest.raises(AdapterForOtherBase, match=digest):
        merge_adapter("tiny", inputs.base, digest, adapter, tmp_path / "out")


def test_the_pedigree_and_licences_of_the_base_go_on(inputs: Inputs, tuned: Result) -> None:
    manifest = read_record(tuned.origin / "manifest.json", ManifestRecord)
    (parent,) = manifest.pedigree
    assert (parent.name, parent.relation) == ("tiny", "merged-from")
    assert parent.weight_digest == inputs.config.base_manifest.weight_digest
    assert parent.licences == inputs.config.base_manifest.licences
    assert manifest.derivation is not None
    assert manifest.derivation.source_files == build_manifest(tuned.origin / "adapter")
    assert (tuned.origin / "licences" / "LICENSE").read_text() == "Terms.\n"
    card = (tuned.origin / "model_card.md").read_text()
    assert parent.weight_digest in card
    assert "apache-2.0" in card
    assert f"{tuned.record.losses[-1]:.3f}" in card


@pytest.mark.usefixtures("in_this_process")
def test_a_run_killed_while_saving_goes_on_and_gives_the_same_bytes(
    inputs: Inputs, tuned: Result, tmp_path: Path
) -> None:
    work = inputs.config.work / inputs_digest(inputs.config)
    order = TrainingWork(
        name=inputs.config.name,
        base=inputs.base,
        base_digest=inputs.config.base_manifest.weight_digest,
        dataset=inputs.dataset,
        dataset_sha256=inputs.config.dataset_sha256,
        recipe=RECIPE,
        work=work,
        weights_out=tmp_path / "lost",
        adapter_out=tmp_path / "lost-adapter",
        checks_out=tmp_path / "lost-checks",
    )
    (tmp_path / "order.json").write_text(order.model_dump_json())
    killed = subprocess.run(
        [sys.executable, "-c", KILL_WHILE_SAVING, str(tmp_path / "order.json")],
        env={**training_child.environment(RECIPE), "PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (checkpoints_folder(work) / "checkpoint-4").is_dir()
    sealed = latest_sealed(work)
    assert sealed is not None
    assert sealed.name == "checkpoint-2"

    again = run(inputs, tmp_path / "again")
    assert again.record == tuned.record
    assert build_manifest(again.origin) == build_manifest(tuned.origin)
    assert not work.exists()


def test_a_base_or_data_with_other_bytes_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(inputs.base, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with pytest.raises(DigestMismatch, match=inputs.config.base_manifest.weight_digest):
        run(inputs._replace(base=other), tmp_path / "a")
    write_rows(tmp_path / "data", lambda n: "even")
    with pytest.raises(DigestMismatch, match=inputs.config.dataset_sha256):
        run(inputs._replace(dataset=tmp_path / "data"), tmp_path / "b")


@pytest.mark.usefixtures("in_this_process")
def test_refused_data_stops_the_stage_and_leaves_nothing_to_resume(
    inputs: Inputs, tmp_path: Path
) -> None:
    rules = RECIPE.checks.model_copy(update={"min_rows": 17})
    config = inputs.config.model_copy(
        update={"recipe": RECIPE.model_copy(update={"checks": rules})}
    )
    with pytest.raises(DatasetRefused, match="there are 17 to"):
        run(inputs._replace(config=config), tmp_path / "out")
    assert not (config.work / inputs_digest(config)).exists()
    assert not (tmp_path / "out" / "weights").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_training_template_that_does_not_fit_stops_the_stage(
    inputs: Inputs, tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"training_template": "{{ messages[0].content }}"})
    config = inputs.config.model_copy(update={"recipe": recipe})
    with pytest.raises(TemplateNotTrainable, match="no generation markers"):
        run(inputs._replace(config=config), tmp_path / "out")


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("lora", "max_length", "fact"),
    [
        ({"target_modules": ("query",)}, 128, "the base has no module named query"),
        ({"first_layer": 3}, 128, "first_layer is 3 of 3"),
        ({}, 257, "max_length is 257, and the base takes 256"),
    ],
)
def test_a_recipe_that_does_not_fit_its_base_is_refused(
    inputs: Inputs, tmp_path: Path, lora: dict[str, Any], max_length: int, fact: str
) -> None:
    settings = RECIPE.lora.model_copy(update=lora)
    recipe = RECIPE.model_copy(update={"lora": settings, "max_length": max_length})
    config = inputs.config.model_copy(update={"recipe": recipe})
    with pytest.raises(TrainingRefused, match=fact):
        run(inputs._replace(config=config), tmp_path / "out")


@pytest.mark.usefixtures("in_this_process")
def test_a_loss_that_is_not_finite_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(inputs.base, base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    files = build_manifest(base)
    manifest = inputs.config.base_manifest.model_copy(
        update={"weight_digest": weight_digest(files), "files": files}
    )
    config = inputs.config.model_copy(update={"base_manifest": manifest})
    with pytest.raises(TrainingRefused, match="the loss is not finite"):
        run(Inputs(base, inputs.dataset, config), tmp_path / "out")


@pytest.mark.usefixtures("in_this_process")
def test_merged_weights_that_differ_from_the_adapter_are_refused(
    inputs: Inputs, tmp_path: Path
) -> None:
    parity = RECIPE.parity.model_copy(update={"max_logprob_difference": 1e-9})
    recipe = RECIPE.model_copy(update={"parity": parity, "steps": 1, "warmup_steps": 0})
    config = inputs.config.model_copy(update={"recipe": recipe})
    with pytest.raises(TrainingRefused, match="merged weights and adapter differ by"):
        run(inputs._replace(config=config), tmp_path / "out")


def test_an_adapter_that_changes_nothing_is_refused(
    inputs: Inputs, tuned: Result, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    shutil.copytree(tuned.origin / "adapter", adapter)
    factors = load_file(adapter / "adapter_model.safetensors")
    zero = {key: tensor * 0 for key, tensor in factors.items()}
    save_file(zero, adapter / "adapter_model.safetensors")
    digest = inputs.config.base_manifest.weight_digest
    with pytest.raises(TrainingRefused, match="no update survived rounding"):
        merge_adapter("tiny", inputs.base, digest, adapter, tmp_path / "out")


def test_an_adapter_of_another_kind_is_refused(
    inputs: Inputs, tuned: Result, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(tuned.origin / "adapter", adapter)
    digest = inputs.config.base_manifest.weight_digest
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    bind_adapter(adapter, digest)
    with pytest.raises(TrainingRefused, match=r"not a plain LoRA \(use_dora\)"):
        merge_adapter("tiny", inputs.base, digest, adapter, tmp_path / "out")


def test_a_checkpoint_is_resumed_only_as_it_was_sealed(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        folder = checkpoints_folder(tmp_path) / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "rng_state.pth").write_bytes(b"state")
        if step != 6:  # the newest was being written when the process was killed
            seal(tmp_path, step)
    newest = checkpoints_folder(tmp_path) / "checkpoint-4"
    assert latest_sealed(tmp_path) == newest
    (newest / "rng_state.pth").write_bytes(b"other")
    sealed = latest_sealed(tmp_path)
    assert sealed is not None
    assert sealed.name == "checkpoint-2"
    (sealed / "planted.pkl").write_bytes(b"")
    assert latest_sealed(tmp_path) is None
