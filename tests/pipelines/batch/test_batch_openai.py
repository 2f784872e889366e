"""OpenAI batch lines in and out, chats, and export: checked against the openai package's types."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finishing import Engines, do_work, finish, rows_of
from openai.types import Completion
from openai.types.chat import ChatCompletion
from pydantic import ValidationError
from scripted_engine import Script
from tiny import SCHEMA

from pipelines.batch.engine import EngineConfig, Request
from pipelines.batch.export import export
from pipelines.batch.job import BatchJob
from pipelines.batch.plan import plan
from pipelines.batch.records import ModelOnDisk

MakeJob = Callable[..., BatchJob]
CHAT = "/v1/chat/completions"


def line(identity: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    return {"custom_id": identity, "method": "POST", "url": url, "body": body}


def said(*texts: str) -> list[dict[str, str]]:
    roles = ["system", "user", "assistant", "user"]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


@pytest.fixture
def ask(make_job: MakeJob, tmp_path: Path) -> Callable[..., BatchJob]:
    """A job over these lines."""

    def make(*lines: Any, **changes: Any) -> BatchJob:
        path = tmp_path / "requests.jsonl"
        path.write_text("".join(json.dumps(value) + "\n" for value in lines))
        corpus = {"path": str(path), "kind": "openai"}
        given = {"corpus": corpus, "prompt": {}, "output_schema": None, **changes}
        return make_job(**given)

    return make


def test_request_lines_go_in_as_they_are_and_come_out_as_results(
    ask: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    job = ask(
        line("one", model="gpt-4o", messages=said("Be brief.", "Which colour?"), max_tokens=9),
        line("two", messages=said("Be brief.", "And", "then", "what?"), n=1, stream=False),
        line("tools", messages=said("a", "b"), tools=[{"type": "function"}]),
        line("image", messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        line("parts", messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]),
        line("elsewhere", url="/v1/completions", prompt="Once"),
        line("hot", messages=said("a", "b"), temperature=9),
    )
    manifest = finish(job, tiny_model, Script(answers={1: ("green",)}))
    assert manifest.errors == {"unsupported_request": 4}
    assert export(job.output, tmp_path / "out.jsonl", "openai") == 7
    results = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["custom_id"] for r in results] == [
        "one", "two", "tools", "image", "parts", "elsewhere", "hot"
    ]  # fmt: skip
    assert all(set(r) == {"id", "custom_id", "response", "error"} for r in results)
    assert [r["error"] is None for r in results] == [r["response"] is not None for r in results]
    body = ChatCompletion.model_validate(results[1]["response"]["body"], strict=True)
    assert (body.choices[0].message.content, body.choices[0].finish_reason) == ("green", "stop")
    assert body.usage is not None
    assert body.usage.total_tokens == body.usage.prompt_tokens + 7
    assert results[1]["response"]["status_code"] == 200
    assert results[2]["error"]["code"] == "unsupported_request"
    assert "'tools' in the body" in results[2]["error"]["message"]
    assert len({r["id"] for r in results}) == 7


def test_completion_lines_go_without_the_chat_template(
    ask: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    job = ask(line("a", url="/v1/completions", prompt="Once upon"))
    made = plan(job, tiny_model)
    assert made.prompt_tokens == len("Once upon")
    finish(job, tiny_model)
    export(job.output, tmp_path / "out.jsonl", "openai")
    (result,) = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    Completion.model_validate(result["response"]["body"], strict=True)


class Listening(Engines):
    """Engines that remember what they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[int, Request] = {}

    def __call__(self, config: EngineConfig) -> Any:
        engine = super().__call__(config)
        add = engine.add

        def listen(request: Request) -> None:
            self.asked[request.row] = request
            add(request)

        engine.add = listen  # type: ignore[method-assign]
        return engine


def test_each_line_has_its_own_sampling_and_schema(ask: MakeJob, tiny_model: ModelOnDisk) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "colour", "schema": SCHEMA}}
    job = ask(
        line("a", messages=said("", "x"), max_completion_tokens=5, temperature=0.5, stop="."),
        line("b", messages=said("", "x"), seed=3, top_p=0.5, response_format=wanted),
        line("c", messages=said("", "x")),
        line("d", messages=said("", "x"), max_tokens=500),
    )
    engines = Listening()
    do_work(job, tiny_model, engines)
    first, second, third = (engines.asked[row].sampling for row in range(3))
    assert first is not None
    assert (first.max_tokens, first.temperature, first.stop) == (5, 0.5, (".",))
    assert second is not None
    assert (second.seed, second.top_p, second.max_tokens) == (3, 0.5, 64)
    assert engines.asked[1].output_schema == SCHEMA
    assert third is None
    rows = rows_of(job.output, plan(job, tiny_model))
    assert rows[1]["output"] is not None
    assert rows[3]["error_class"] == "too_long"


def test_the_plan_names_models_that_lines_ask_for_in_vain(
    ask: MakeJob, tiny_model: ModelOnDisk
) -> None:
    notes = plan(ask(line("a", model="gpt-4o", messages=said("", "x"))), tiny_model).notes
    assert "lines name other models (gpt-4o); tiny@production answers all of them" in notes


def test_lines_for_another_task_are_error_rows(ask: MakeJob, tiny_model: ModelOnDisk) -> None:
    job = ask(line("a", url="/v1/embeddings", input="x"), line("b", url="/v1/images", prompt="x"),
              {"custom_id": 7}, "no object")  # fmt: skip
    assert plan(job, tiny_model).planned_errors == {"invalid_line": 2, "unsupported_request": 2}


def test_a_column_of_messages_is_a_chat(make_job: MakeJob, tiny_model: ModelOnDisk) -> None:
    job = make_job()
    path = Path(job.corpus.path).parent / "chats.jsonl"
    path.write_text(json.dumps({"id": "a", "chat": said("Be brief.", "Hi", "Hello", "Bye")}) + "\n")
    corpus = {"path": str(path), "messages_column": "chat"}
    made = plan(make_job(corpus=corpus, prompt={"system": "Unused: it has its own."}), tiny_model)
    control, newlines = 9, 4  # tokens that begin and end messages, and what follows their ends
    roles = len("system\nuser\nassistant\nuser\nassistant\n")
    assert made.prompt_tokens == control + newlines + roles + len("Be brief.HiHelloBye")
    for change, says in [
        ({"prompt": {"template": "{{ text }}"}}, "chats are sent as they are"),
        ({"prompt": {}, "chunking": {"tokens": 99}}, "cannot be divided"),
    ]:
        with pytest.raises(ValidationError, match=says):
            make_job(corpus=corpus, **change)
    with pytest.raises(ValidationError, match=r"prompt\.template is empty"):
        make_job(prompt={})


def test_csv_keeps_every_value_and_no_cell_is_a_formula(
    make_job: MakeJob, tiny_model: ModelOnDisk, tmp_path: Path
) -> None:
    hostile = '=HYPERLINK("http://example.org"),\n"two" lines'
    job = make_job(output_schema=None)
    finish(job, tiny_model, Script(answers={0: (hostile,), 1: ("-1",), 2: ("fine",)}))
    assert export(job.output, tmp_path / "rows.csv") == 40
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["raw_text"] for row in rows[:3]] == [f"'{hostile}", "'-1", "fine"]
    assert rows[3]["row"] == "3"
