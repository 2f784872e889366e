"""Which engine runs a job, on which devices, and what is refused before one is started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from finishing import Engines, do_work, finish, rows_of
from pydantic import ValidationError
from scripted_engine import Script
from tiny import make_tiny_model

from pipelines.batch.engine import EngineConfig
from pipelines.batch.engine_choice import lora_rank, vllm_architectures
from pipelines.batch.gpus import VISIBLE, divide_gpus, visible_gpus
from pipelines.batch.job import BatchJob
from pipelines.batch.output_schema import OutputSchema
from pipelines.batch.plan import plan
from pipelines.batch.pooling import pack
from pipelines.batch.records import AdapterOnDisk, ModelOnDisk
from pipelines.batch.rows import Row, answered_schema
from pipelines.batch.settings import EngineSettings, Sampling
from pipelines.batch.vllm_engine import engine_arguments, environment
from pipelines.errors import ConfigError

MakeJob = Callable[..., BatchJob]


def model_with(folder: Path, **config: Any) -> ModelOnDisk:
    """A tiny model whose config.json says more."""
    model = make_tiny_model(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return model


def test_transformers_answers_for_what_vllm_lacks_and_the_plan_says_so(
    make_job: MakeJob, tmp_path: Path
) -> None:
    known = model_with(tmp_path / "known", architectures=["LlamaForCausalLM"])
    other = model_with(tmp_path / "other", architectures=["XGLMForCausalLM"])

    def notes(model: ModelOnDisk, backend: str) -> str:
        folder = tmp_path / f"{model.weights.name}-{backend}"
        job = make_job(output_schema=None, output=str(folder), engine={"backend": backend})
        return "; ".join(plan(job, model).notes)

    assert "transformers" not in notes(known, "auto")
    assert "vLLM's registry does not have XGLMForCausalLM" in notes(other, "auto")
    assert "transformers" not in notes(other, "vllm")
    assert "engine.backend is transformers" in notes(known, "transformers")


@pytest.mark.long
def test_the_registry_as_read_is_the_registry_that_vllm_has() -> None:
    code = "from vllm import ModelRegistry; print(*ModelRegistry.get_supported_archs())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    read = vllm_architectures()
    assert read is not None
    theirs = set(said.stdout.split())
    assert read <= theirs
    assert {name for name in theirs - read if name.endswith("ForCausalLM")} == set()


@pytest.mark.parametrize(
    ("changes", "key", "fact"),
    [
        ({"task": "embed"}, "task", "no hidden_size"),
        ({"task": "classify"}, "task", "no classification head"),
        (
            {"task": "embed", "engine": {"backend": "transformers"}, "model": "sized"},
            "task",
            "embed runs on vLLM only",
        ),
        (
            {"engine": {"backend": "transformers", "tensor_parallel": 2}},
            "engine.tensor_parallel",
            "one GPU",
        ),
        (
            {"engine": {"backend": "transformers"}, "sampling": {"presence_penalty": 1}},
            "sampling",
            "are vLLM's",
        ),
    ],
)
def test_plan_refuses_what_the_engine_cannot_do(
    make_job: MakeJob, tmp_path: Path, changes: dict[str, Any], key: str, fact: str
) -> None:
    more = {"hidden_size": 8} if changes.get("model") == "sized" else {}
    model = model_with(tmp_path / "model", architectures=["LlamaForCausalLM"], **more)
    with pytest.raises(ConfigError, match=fact) as raised:
        plan(make_job(output_schema=None, **changes), model)
    assert str(raised.value).startswith(f"{key}:")


def test_an_engine_that_would_wait_for_requests_is_refused(
    make_job: MakeJob, tiny_model: ModelOnDisk
) -> None:
    with pytest.raises(ValidationError, match="max_in_flight must be above max_num_seqs"):
        EngineSettings(max_in_flight=8, max_num_seqs=8)
    engines = Engines(Script(max_num_seqs=12))
    with pytest.raises(ConfigError, match="the engine runs 12 requests at once"):
        do_work(make_job(), tiny_model, engines)
    report = do_work(make_job(engine={}), tiny_model, engines)
    assert (report.max_num_seqs, report.max_in_flight) == (12, 24)
    assert engines.made[1].most_in_flight == 24
    assert 0 < report.occupancy <= 1


def test_prompts_with_a_common_beginning_are_neighbours(
    make_job: MakeJob, tiny_model: ModelOnDisk, corpus: Path, tmp_path: Path
) -> None:
    for path in corpus.iterdir():
        number = int(path.stem.removeprefix("document-"))
        path.write_text(f"{'even' if number % 2 == 0 else 'odd'} {number:02}")
    log = tmp_path / "log"
    job = make_job()
    finish(job, tiny_model, Script(log=log))
    asked = [int(line.split("-")[0]) for line in log.read_text().splitlines() if "-" in line]
    assert asked == [*range(0, 40, 2), *range(1, 40, 2)]
    assert [row["row"] for row in rows_of(job.output, plan(job, tiny_model))] == list(range(40))


def test_gpus_are_divided_among_engines_and_too_few_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible_gpus(tmp_path) == ()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus(tmp_path) == ("0", "1")
    monkeypatch.setenv(VISIBLE, "2,GPU-a,5,7")
    assert visible_gpus(tmp_path) == ("2", "GPU-a", "5", "7")
    monkeypatch.setenv(VISIBLE, "")
    assert visible_gpus(tmp_path) == ()
    four = ("2", "GPU-a", "5", "7")
    assert divide_gpus(EngineSettings(), ()) == [{}]
    assert divide_gpus(EngineSettings(tensor_parallel=2, data_parallel=2), four) == [
        {VISIBLE: "2,GPU-a"},
        {VISIBLE: "5,7"},
    ]
    with pytest.raises(ConfigError, match=r"tensor_parallel: 1 engines of 2 GPUs .* has 0"):
        divide_gpus(EngineSettings(tensor_parallel=2), ())
    with pytest.raises(ConfigError, match=r"data_parallel: 4 engines of 2 .* need 8, .* has 4"):
        divide_gpus(EngineSettings(tensor_parallel=2, data_parallel=4), four)


def test_vllm_is_started_for_gpus_with_its_own_defaults_and_for_cpus_without_them(
    tmp_path: Path,
) -> None:
    config = EngineConfig(
        weights=tmp_path,
        sampling=Sampling(),
        output_schema=None,
        max_model_len=512,
        settings=EngineSettings(tensor_parallel=2, prefix_caching=False, max_num_seqs=64),
        task="embed",
    )
    given = engine_arguments(config, on_cpu=False)
    assert (given["tensor_parallel_size"], given["distributed_executor_backend"]) == (2, "mp")
    assert (given["runner"], given["convert"]) == ("pooling", "embed")
    assert (given["max_num_seqs"], given["enable_prefix_caching"]) == (64, False)
    assert "enforce_eager" not in given
    assert "dtype" not in given
    assert not [name for name in environment(config, on_cpu=False) if "CPU" in name]
    assert engine_arguments(config, on_cpu=True)["enforce_eager"] is True


def adapter_of_rank(folder: Path, rank: object, **more: Any) -> AdapterOnDisk:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, **more}))
    return AdapterOnDisk(name="a@production", folder=folder, digest="cd" * 32)


def test_an_adapter_above_the_engines_rank_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    assert lora_rank(adapter_of_rank(tmp_path / "a", 8)) == 8
    assert lora_rank(adapter_of_rank(tmp_path / "b", 8, rank_pattern={"q_proj": 40})) == 64
    model = model_with(tmp_path / "model", architectures=["LlamaForCausalLM"])
    for name, rank, fact in [("c", 513, "has rank 513"), ("d", None, "states no rank")]:
        adapted = model.model_copy(update={"adapter": adapter_of_rank(tmp_path / name, rank)})
        with pytest.raises(ConfigError, match=fact):
            plan(make_job(output=str(tmp_path / f"out-{name}")), adapted)


def test_a_job_with_an_adapter_is_another_job_and_its_rows_say_which(
    make_job: MakeJob, tmp_path: Path
) -> None:
    base = model_with(tmp_path / "model", architectures=["LlamaForCausalLM"])
    adapted = base.model_copy(update={"adapter": adapter_of_rank(tmp_path / "a", 8)})
    one, two = make_job(output=str(tmp_path / "one")), make_job(output=str(tmp_path / "two"))
    assert plan(one, base).job_id != plan(two, adapted).job_id
    engines = Engines()
    do_work(two, adapted, engines)
    assert engines.made[0].config.adapter == adapted.adapter
    rows = rows_of(two.output, plan(two, adapted))
    assert {row["adapter_digest"] for row in rows} == {"cd" * 32}
    assert {row["weight_digest"] for row in rows} == {base.weight_digest}


def test_embeddings_are_a_column_of_fixed_size_vectors(make_job: MakeJob, tmp_path: Path) -> None:
    model = model_with(tmp_path / "model", architectures=["LlamaForCausalLM"], hidden_size=4)
    job = make_job(task="embed", output_schema=None, prompt={"template": "{{ text }}"})
    manifest = finish(job, model, Script(dimensions=4, finish={3: "error"}))
    planned = plan(job, model)
    assert planned.prompt_form == "text"
    assert manifest.errors == {"engine_error": 1}
    rows = rows_of(job.output, planned)
    assert rows[5]["vector"] == [5.0, 6.0, 7.0, 8.0]
    assert (rows[3]["vector"], rows[3]["error_class"]) == (None, "engine_error")
    assert (rows[5]["output"], rows[5]["raw_text"]) == (None, "")
    field = answered_schema(OutputSchema(None), planned.pooled).field("vector")
    assert field.type == pa.list_(pa.float32(), 4)


def test_a_vector_survives_the_journal_bit_for_bit() -> None:
    row = Row(row=1, document_id="a", document_sha256="", chunk=0, vector=pack([0.1, -1e30, 3.0]))
    assert Row.model_validate_json(row.model_dump_json()) == row


def test_classification_gives_labels_and_scores(make_job: MakeJob, tmp_path: Path) -> None:
    model = model_with(
        tmp_path / "model",
        architectures=["LlamaForSequenceClassification"],
        id2label={"0": "low", "1": "high"},
    )
    job = make_job(task="classify", output_schema=None)
    finish(job, model, Script(dimensions=2))
    rows = rows_of(job.output, plan(job, model))
    assert (rows[5]["label"], rows[5]["scores"]) == ("high", [5.0, 6.0])
    assert np.shape([row["scores"] for row in rows]) == (40, 2)


def test_numbers_of_another_length_than_planned_are_error_rows(
    make_job: MakeJob, tmp_path: Path
) -> None:
    model = model_with(tmp_path / "model", architectures=["LlamaForCausalLM"], hidden_size=4)
    job = make_job(task="embed", output_schema=None)
    assert finish(job, model, Script(dimensions=3)).errors == {"engine_error": 40}
    row = rows_of(job.output, plan(job, model))[0]
    assert "3 numbers, and the model's config.json says 4" in row["error_message"]


@pytest.mark.parametrize(
    ("sampling", "fact"),
    [({"max_tokens": 4, "min_tokens": 5}, "min_tokens"), ({"stop": [""]}, "empty text")],
)
def test_sampling_that_cannot_end_is_refused(sampling: dict[str, Any], fact: str) -> None:
    with pytest.raises(ValidationError, match=fact):
        Sampling.model_validate(sampling)


def test_a_schema_is_only_for_answers_in_text(make_job: MakeJob) -> None:
    with pytest.raises(ValidationError, match="task embed has none"):
        make_job(task="embed")
