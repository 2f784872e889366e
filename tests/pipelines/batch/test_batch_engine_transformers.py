"""The fallback engine, with a tiny model of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from finishing import do_work, rows_of
from tiny import make_tiny_model

from pipelines.batch.engine import Completion, EngineConfig, Request, RequestRefused
from pipelines.batch.engine_choice import start_engine
from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk
from pipelines.batch.settings import EngineSettings, Sampling
from pipelines.batch.transformers_engine import TransformersEngine, start_transformers
from pipelines.canonical import sha256_bytes

MakeJob = Callable[..., BatchJob]


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> ModelOnDisk:
    """XGLM, which vLLM lacks: two layers over the tokenizer of one token a byte."""
    import torch
    from transformers import XGLMConfig, XGLMForCausalLM

    model = make_tiny_model(tmp_path_factory.mktemp("xglm") / "tiny")
    torch.manual_seed(0)
    config = XGLMConfig(
        vocab_size=258, d_model=32, ffn_dim=32, num_layers=2, attention_heads=2,
        max_position_embeddings=512, pad_token_id=256, bos_token_id=256, eos_token_id=257,
        decoder_start_token_id=256,
    )  # fmt: skip
    XGLMForCausalLM(config).save_pretrained(model.weights)
    return model


def engine_for(model: ModelOnDisk, **sampling: object) -> TransformersEngine:
    return start_transformers(
        EngineConfig(
            weights=model.weights,
            sampling=Sampling.model_validate({"max_tokens": 8, **sampling}),
            output_schema=None,
            max_model_len=64,
            settings=EngineSettings(max_num_seqs=3),
        )
    )


def answers(engine: TransformersEngine, prompts: list[str]) -> dict[str, Completion]:
    for row, text in enumerate(prompts):
        engine.add(Request(row, 1, list(text.encode())))
    found: dict[str, Completion] = {}
    while ended := engine.step():
        assert len(ended) <= 3
        found |= {completion.key: completion for completion in ended}
    return found


PROMPTS = ["a", "bb bb", "c" * 40, "dd", "e" * 7]


def test_a_job_for_an_architecture_that_vllm_lacks_runs_to_its_end(
    make_job: MakeJob, random_model: ModelOnDisk
) -> None:
    job = make_job(output_schema=None, sampling={"max_tokens": 4}, engine={})
    do_work(job, random_model, start_engine)  # type: ignore[arg-type]
    planned = plan(job, random_model)
    assert any("does not have XGLMForCausalLM" in note for note in planned.notes)
    rows = rows_of(job.output, planned)
    assert [row["error_class"] for row in rows] == [None] * 40
    assert {row["engine"].split()[0] for row in rows} == {"transformers"}
    assert all(1 <= row["completion_tokens"] <= 4 for row in rows)


def test_answers_do_not_depend_on_what_is_padded_beside_them(random_model: ModelOnDisk) -> None:
    engine = engine_for(random_model)
    together = answers(engine, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        engine.add(Request(row, 1, list(prompt.encode())))
        (alone,) = engine.step()
        assert together[alone.key].text == alone.text


def test_sampled_answers_repeat_with_their_seed(random_model: ModelOnDisk) -> None:
    texts = [answers(engine_for(random_model, temperature=1.0, seed=s), PROMPTS) for s in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(random_model: ModelOnDisk) -> None:
    whole = answers(engine_for(random_model, max_tokens=16), ["abc"])["0-1"]
    assert (whole.finish_reason, len(whole.text) > 4) == ("length", True)
    stop = whole.text[3:5]
    cut = answers(engine_for(random_model, max_tokens=16, stop=[stop]), ["abc"])["0-1"]
    assert (cut.finish_reason, cut.text) == ("stop", whole.text[: whole.text.index(stop)])


def test_a_prompt_beyond_the_context_is_refused(random_model: ModelOnDisk) -> None:
    with pytest.raises(RequestRefused, match="65 tokens with the longest answer"):
        engine_for(random_model).add(Request(0, 1, [1] * 57))


def test_an_adapter_changes_the_answers(random_model: ModelOnDisk, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from pipelines.batch.records import AdapterOnDisk

    base = AutoModelForCausalLM.from_pretrained(random_model.weights)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    get_peft_model(base, config).save_pretrained(tmp_path)
    adapter = AdapterOnDisk(name="a", folder=tmp_path, digest=sha256_bytes(b""))
    settings = EngineSettings(max_num_seqs=3)
    adapted = start_transformers(
        EngineConfig(
            weights=random_model.weights,
            sampling=Sampling(max_tokens=8),
            output_schema=None,
            max_model_len=64,
            settings=settings,
            adapter=adapter,
        )
    )
    plain = answers(engine_for(random_model), PROMPTS)
    assert answers(adapted, PROMPTS) != plain
