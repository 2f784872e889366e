"""The real engine: vLLM with SmolLM2, a whole job in a worker process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finishing import rows_of

from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.run import run_batch
from pipelines.batch.tokens import ModelTokenizer
from pipelines.digest import build_manifest, weight_digest
from pipelines.records import RunInfo, read_record
from pipelines.template import template_sha256

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["permissive", "copyleft", "other"]},
        "note": {"type": "string", "maxLength": 20},
    },
    "required": ["kind", "note"],
    "additionalProperties": False,
}


@pytest.fixture(scope="session")
def small_model(smollm2: Path) -> ModelOnDisk:
    return ModelOnDisk(
        name="smollm2@production",
        weights=smollm2,
        weight_digest=weight_digest(build_manifest(smollm2)),
        template_sha256=template_sha256(smollm2),
    )


def test_prompts_have_the_ids_that_transformers_gives(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(smollm2), ModelTokenizer(smollm2)
    for system, user in [
        (None, "What is the capital of France?"),
        ("Answer in JSON.", "Café 😀\n\tdef f(x):\n  return '<|im_end|>'\n" * 5),
        ("", "  leading and trailing  \n\n"),
    ]:
        messages = [{"role": "user", "content": user}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True)
        assert ours.encode([ours.chat(messages)]) == [list(expected["input_ids"])]


def licence_job(folder: Path) -> BatchJob:
    """Twenty short documents, one too long and one that is no text, behind a shared prefix."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(20):
        (corpus / f"{number:02}.txt").write_text(f"Licence {number}: you may copy this freely.")
    (corpus / "20.txt").write_text("You may copy. " * 400)  # too long for the context
    (corpus / "21.txt").write_bytes(b"\xff\xfe")
    return BatchJob.model_validate(
        {
            "name": "licences",
            "model": "smollm2@production",
            "corpus": {"path": corpus},
            "classification": "public",
            "prompt": {
                "system": "You sort licences and answer in JSON. " * 25,
                "template": "Which kind of licence is this? Note why.\n\n{{ text }}",
            },
            "output_schema": SCHEMA,
            "sampling": {"max_tokens": 64},
            "engine": {"max_in_flight": 6, "max_num_seqs": 4, "max_model_len": 512},
            "limits": {"max_error_rate": 0.5},
            "shard_rows": 8,
            "output": str(folder / "out"),
        }
    )


def test_vllm_answers_every_row_under_a_schema(small_model: ModelOnDisk, tmp_path: Path) -> None:
    job = licence_job(tmp_path)
    manifest = run_batch(job, small_model)
    rows = rows_of(job.output, plan(job, small_model))
    assert [row["document_id"] for row in rows] == [f"{number:02}.txt" for number in range(22)]
    assert [row["error_class"] for row in rows[20:]] == ["too_long", "invalid_utf8"]
    (engine,) = manifest.engines
    assert engine.startswith("vllm")
    for row in rows[:20]:
        assert row["engine"] == engine
        assert 0 < row["completion_tokens"] <= 64 * row["attempts"]
        if row["error_class"] is None:
            assert set(json.loads(row["output"])) == {"kind", "note"}
            assert row["output_kind"] in ("permissive", "copyleft", "other")
        else:
            assert row["error_class"] in ("cut_at_max_tokens", "invalid_json")
    assert manifest.rows_ok >= 10
    assert manifest.tokens.cached > 0  # the system prompt is shared, and requests come in turn
    info = read_record(tmp_path / "out" / "run.json", RunInfo)
    assert info.details["rows_generated"] == 20
