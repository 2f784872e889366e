"""From what an analyst fills in to the job that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.batch_inference import LABEL, make_job, output_schema, prompt_template
from flows.parameters import (
    BatchForm,
    DocumentsForm,
    Fields,
    FreeText,
    JobForm,
    OneLabel,
    QuestionForm,
)

DIGEST = "a" * 64


def form(**changes: Any) -> BatchForm:
    filled = BatchForm(
        documents=DocumentsForm(path="/data/mail", classification="internal"),
        question=QuestionForm(prompt="Is it urgent?", answer=OneLabel(labels=("yes", "no"))),
        job=JobForm(model="mail@production"),
    )
    return filled.model_copy(update=changes)


def test_document_follows_the_question_unless_the_question_says_where() -> None:
    fields = Fields(json_schema='{"type": "object"}')
    assert prompt_template(QuestionForm(prompt="Sum up.", answer=fields)) == "Sum up.\n\n{{ text }}"
    asked = "Read <<{{ text }}>> and sum up."
    assert prompt_template(QuestionForm(prompt=asked, answer=fields)) == asked


def test_length_of_free_text_is_told_to_the_model() -> None:
    asked = QuestionForm(prompt="Sum up.", answer=FreeText(words=20))
    assert prompt_template(asked) == "Sum up.\n\nAnswer in at most 20 words.\n\n{{ text }}"


def test_labels_are_told_to_the_model_once() -> None:
    labels = OneLabel(labels=("spam", "ham"))
    silent = QuestionForm(prompt="What is it?", answer=labels)
    assert "Answer with one of: spam, ham.\n\n{{ text }}" in prompt_template(silent)
    spoken = QuestionForm(prompt="Is it spam or ham?", answer=labels)
    assert prompt_template(spoken) == "Is it spam or ham?\n\n{{ text }}"


def test_answer_has_the_form_that_was_chosen() -> None:
    labels = output_schema(QuestionForm(prompt="?", answer=OneLabel(labels=("a", "b"))))
    assert labels is not None
    assert labels["properties"] == {LABEL: {"enum": ["a", "b"]}}
    fields = Fields(json_schema='{"type": "object", "properties": {"n": {"type": "integer"}}}')
    asked = output_schema(QuestionForm(prompt="?", answer=fields))
    assert asked == {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert output_schema(QuestionForm(prompt="?", answer=FreeText())) is None


def test_same_request_is_the_same_job() -> None:
    first, second = (make_job(form(), Path("/jobs"), DIGEST) for _ in range(2))
    assert first == second
    assert first.output.startswith("/jobs/mail-")


def test_other_question_or_other_weights_are_another_job() -> None:
    there = make_job(form(), Path("/jobs"), DIGEST)
    asked = form(question=QuestionForm(prompt="Is it late?", answer=FreeText()))
    assert make_job(asked, Path("/jobs"), DIGEST).output != there.output
    assert make_job(form(), Path("/jobs"), "b" * 64).output != there.output


def test_named_job_has_its_folder_by_that_name() -> None:
    named = form(job=JobForm(model="mail@production", name="urgent-2026-11"))
    assert make_job(named, Path("/jobs"), DIGEST).output == "/jobs/urgent-2026-11"


def test_what_the_form_says_reaches_the_job() -> None:
    documents = DocumentsForm(
        path="/data/mail.jsonl", classification="restricted", part_tokens=200, first_parts=2
    )
    job = make_job(form(documents=documents), Path("/jobs"), DIGEST)
    assert job.corpus.kind == "jsonl"
    assert job.classification == "restricted"
    assert job.chunking is not None
    assert (job.chunking.tokens, job.chunking.first) == (200, 2)
    assert job.sampling.max_tokens == 100
