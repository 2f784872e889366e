"""vLLM as more than a writer: vectors, labels, and an adapter, each a whole job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finishing import rows_of

from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import AdapterOnDisk, ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.digest import build_manifest, weight_digest
from pipelines.records import RunInfo, read_record
from pipelines.template import template_sha256

pytestmark = pytest.mark.long

MakeJob = Callable[..., BatchJob]
TEXTS = ["The cat sat on the mat.", "The cat sat on a mat.", "Interest rates rose by a quarter."]


def on_disk(folder: Path, **more: Any) -> ModelOnDisk:
    return ModelOnDisk(
        name="smollm2@production",
        weights=folder,
        weight_digest=weight_digest(build_manifest(folder)),
        template_sha256=template_sha256(folder),
        **more,
    )


def answered(folder: Path, model: ModelOnDisk, **changes: Any) -> list[dict[str, Any]]:
    """Rows of a job over three texts, all of them answered."""
    corpus = folder / "corpus.jsonl"
    lines = (json.dumps({"id": str(n), "text": text}) for n, text in enumerate(TEXTS))
    corpus.write_text("".join(f"{line}\n" for line in lines))
    job = BatchJob.model_validate(
        {
            "name": "kinds",
            "model": model.name,
            "corpus": {"path": str(corpus)},
            "classification": "public",
            "prompt": {"template": "{{ text }}"},
            "engine": {"max_model_len": 512},
            "limits": {"max_error_rate": 0.0},
            "output": str(folder / "out"),
            **changes,
        }
    )
    manifest = run_batch(job, model)
    assert manifest.rows_ok == len(TEXTS)
    assert read_record(folder / "out" / "run.json", RunInfo).details["occupancy"] != 0
    return rows_of(job.output, plan(job, model))


def test_vllm_embeds(smollm2: Path, tmp_path: Path) -> None:
    rows = answered(tmp_path, on_disk(smollm2), task="embed")
    vectors = np.array([row["vector"] for row in rows])
    assert vectors.shape == (3, 576)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_vllm_classifies(smollm2: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "classifier"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        smollm2, num_labels=3, id2label={0: "cats", 1: "money", 2: "other"}, dtype="bfloat16"
    )
    shutil.copytree(smollm2, folder)
    model.save_pretrained(folder)
    rows = answered(tmp_path, on_disk(folder), task="classify")
    for row in rows:
        assert np.isclose(sum(row["scores"]), 1, atol=1e-3)
        assert row["label"] == ("cats", "money", "other")[int(np.argmax(row["scores"]))]


def test_vllm_runs_an_adapter_on_its_base_until_a_stop_text(smollm2: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "adapter"
    torch.manual_seed(1)
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(smollm2), config).save_pretrained(folder)
    digest = weight_digest(build_manifest(folder))
    adapter = AdapterOnDisk(name="tuned@production", folder=folder, digest=digest)
    sampling = {"max_tokens": 16, "stop": ["a", "e", "i"], "repetition_penalty": 1.1}
    rows = answered(tmp_path, on_disk(smollm2, adapter=adapter), sampling=sampling)
    assert {row["adapter_digest"] for row in rows} == {digest}
    assert not [row for row in rows if set("aei") & set(row["raw_text"])]
