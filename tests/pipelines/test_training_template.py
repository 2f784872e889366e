"""The training copy of a chat template renders alike, and marks the answer and its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import TemplateNotTrainable
from pipelines.training_rows import Message, Row
from pipelines.training_template import has_markers, mark_answers, training_template
from pipelines.training_tokens import IGNORED, tokenise
from tests.tiny_chat_model import TEMPLATE, save_tokenizer

INDENTED = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
SEPARATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
)
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ message.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
)
ROW = Row(
    id="r1",
    messages=(
        Message(role="system", content="Be brief."),
        Message(role="user", content="Is 4 even? 5?"),
        Message(role="assistant", content="4 is.\n5 is not."),
        Message(role="user", content="Sure?"),
        Message(role="assistant", content="Yes."),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def labelled(tokenizer: Any, folder: Path, template: str, max_length: int = 200) -> str:
    (row,) = tokenise(tokenizer, [ROW], template, max_length=max_length, base=folder)
    return str(tokenizer.decode([label for label in row.labels if label != IGNORED]))


@pytest.mark.parametrize("original", [TEMPLATE, INDENTED])
def test_chatml_templates_are_marked(tokenizer: Any, folder: Path, original: str) -> None:
    tokenizer.chat_template = original
    assert not has_markers(original)
    copy = training_template(tokenizer, None, "tiny")
    assert has_markers(copy)
    assert labelled(tokenizer, folder, copy) == "4 is.\n5 is not.<|im_end|>Yes.<|im_end|>"


def test_a_template_of_unknown_form_is_refused_with_the_remedy(tokenizer: Any) -> None:
    tokenizer.chat_template = SEPARATE
    assert mark_answers(SEPARATE) is None
    with pytest.raises(TemplateNotTrainable, match=r"no known form.*training_template"):
        training_template(tokenizer, None, "tiny")


def test_a_recipe_can_bring_the_copy(tokenizer: Any, folder: Path) -> None:
    tokenizer.chat_template = SEPARATE
    assert training_template(tokenizer, MARKED, "tiny") == MARKED
    assert labelled(tokenizer, folder, MARKED) == "4 is.\n5 is not.<|im_end|>Yes.<|im_end|>"


def test_a_copy_that_renders_differently_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = SEPARATE
    other = MARKED.replace("<|im_start|>", "<|im_start|> ")
    with pytest.raises(TemplateNotTrainable, match=r"renders a conversation .* differently"):
        training_template(tokenizer, other, "tiny")


def test_a_copy_without_markers_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TemplateNotTrainable, match="no generation markers"):
        training_template(tokenizer, TEMPLATE, "tiny")


def test_a_model_without_template_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(TemplateNotTrainable, match="no single chat template"):
        training_template(tokenizer, None, "tiny")


@pytest.mark.parametrize(
    ("old", "new", "fact"),
    [
        (
            "{{ message.content }}<|im_end|>{% endgeneration %}",
            "{{ message.content }}{% endgeneration %}<|im_end|>",
            "leave out the token that ends the answer",
        ),
        (
            "{% if message.role == 'assistant' %}",
            "{% if message.role == 'user' %}",
            "what the markers show is not the answer",
        ),
        (
            "{% if message.role == 'assistant' %}",
            "{% if message.role == 'assistant' and loop.last %}",
            "show 1 answers of 2",
        ),
    ],
)
def test_a_mask_that_is_not_the_answer_and_its_end_is_refused(
    tokenizer: Any, folder: Path, old: str, new: str, fact: str
) -> None:
    tokenizer.chat_template = SEPARATE
    wrong = training_template(tokenizer, MARKED.replace(old, new), "tiny")
    with pytest.raises(TemplateNotTrainable, match=f"in row r1 .*{fact}"):
        labelled(tokenizer, folder, wrong)


def test_a_row_is_cut_and_counted_before_the_cut(tokenizer: Any, folder: Path) -> None:
    copy = training_template(tokenizer, None, "tiny")
    (whole,) = tokenise(tokenizer, [ROW], copy, max_length=200, base=folder)
    (cut,) = tokenise(tokenizer, [ROW], copy, max_length=20, base=folder)
    assert (cut.tokens, len(cut.input_ids), len(cut.labels)) == (whole.tokens, 20, 20)
    assert cut.answer_tokens == 0
