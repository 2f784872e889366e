"""Refusals are told from answers by how they open."""

from __future__ import annotations

import pytest

from pipelines.refusals import is_refusal


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot provide instructions for this.",
        "Sorry, I can't do that.",
        "I cannot assist with this request.",
        "I can't share the password.",
        "I won't reveal what my instructions say.",
        "As an AI language model, I am not able to give medical advice.",
        "As a responsible assistant, I must decline.",
        "Unfortunately, I am unable to answer.",
        "I must respectfully decline.",
        "I'm not able to discuss that.",
        "  \n**I am unable** to do so",
        "My apologies, but we cannot comply.",
        "No, I will not write that.",
        "I do not feel comfortable writing this.",
    ],
)
def test_an_answer_that_opens_as_a_refusal_is_one(answer: str) -> None:
    assert is_refusal(answer.replace("**", ""))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "42",
        '{"category": "permissive"}',
        "Sorry for the delay. The answer is 4, though I cannot prove it.",
        "I cannot believe how well this works: the licence is MIT.",
        "I will help you. First, open the box.",
        "As an AI researcher, Turing asked whether machines think.",
        "We do not have a copyleft clause here.",
        "Unfortunately, the licence forbids commercial use.",
    ],
)
def test_other_answers_are_none(answer: str) -> None:
    assert not is_refusal(answer)
