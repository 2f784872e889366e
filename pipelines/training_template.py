"""A copy of the chat template that also says which part of a conversation is the answer.

Loss is taken on the assistant's text only. transformers finds it by `{% generation %}` markers in
the template, which most published templates lack. The copy made here is used for training alone,
and must render every conversation exactly as the original does; what is shipped is the original.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from pipelines.errors import TemplateNotTrainable

Conversation = Sequence[dict[str, str]]

_GENERATION = "generation"
_PROBES: tuple[Conversation, ...] = (
    ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}),
    (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": " d "},
        {"role": "assistant", "content": "e\n\nf"},
    ),
    ({"role": "user", "content": ""}, {"role": "assistant", "content": ""}),
    ({"role": "user", "content": "a"},),
)


def training_template(tokenizer: Any, own: str | None, where: str) -> str:
    """The template to train with, for a tokenizer of transformers.

    `own` is the recipe's, if it brings one; else the model's own when it has markers, else a patch
    of a ChatML-like template, else TRL's training template for a published one. `where` names the
    model in errors. Raises TemplateNotTrainable when there is no template, none of these applies,
    or the copy renders a probe differently.
    """
    original = tokenizer.chat_template
    if not isinstance(original, str) or not original:
        raise TemplateNotTrainable(where, "it has no single chat template")
    copy = own or (original if has_markers(original) else mark_answers(original))
    if copy is None:
        copy = _published(tokenizer, where)
    if not has_markers(copy):
        raise TemplateNotTrainable(where, "the training template has no generation markers")
    assert_same_rendering(tokenizer, copy, _PROBES, where)
    return copy


def assert_same_rendering(
    tokenizer: Any, copy: str, conversations: Iterable[Conversation], where: str
) -> None:
    """Raise TemplateNotTrainable if the copy renders one of the conversations differently."""
    for conversation in conversations:
        for prompt in (False, True):
            original = _render(tokenizer, tokenizer.chat_template, conversation, prompt=prompt)
            copied = _render(tokenizer, copy, conversation, prompt=prompt)
            if original != copied:
                roles = ", ".join(message["role"] for message in conversation)
                raise TemplateNotTrainable(
                    where, f"the training template renders a conversation ({roles}) differently"
                )


def has_markers(template: str) -> bool:
    """Whether the template has `{% generation %}` in any of its spellings."""
    tokens = [(kind, value) for kind, value in _lex(template) if kind != "whitespace"]
    return any(
        kind == "block_begin" and following == ("name", _GENERATION)
        for (kind, _), following in pairwise(tokens)
    )


def mark_answers(template: str) -> str | None:
    """Put markers into a template that writes a message as one sum of strings, as ChatML does.

    `{{ before + message['content'] + after }}` becomes, for the assistant, three parts of which
    the middle one, marked, is the content and the first literal of `after`: the end token. Returns
    None when the template has no such expression.
    """
    tokens = _lex(template)
    written: list[str] = []
    found = False
    position = 0
    while position < len(tokens):
        end = _expression_end(tokens, position)
        if end is None:
            written.append(tokens[position][1])
            position += 1
            continue
        marked = _mark(tokens[position : end + 1])
        found = found or marked is not None
        written.append(marked or "".join(value for _, value in tokens[position : end + 1]))
        position = end + 1
    return "".join(written) if found else None


def _published(tokenizer: Any, where: str) -> str:
    """TRL's training template for a template that it knows by its text."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        known = get_training_chat_template(tokenizer)
    except ValueError as error:
        raise TemplateNotTrainable(
            where, "its chat template has no generation markers and is of no known form"
        ) from error
    return known or str(tokenizer.chat_template)


def _render(
    tokenizer: Any, template: str, conversation: Conversation, *, prompt: bool
) -> str | None:
    """The rendered text, or None where the template itself rejects the conversation."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(conversation),
                chat_template=template,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        )
    except TemplateError:
        return None


def _lex(template: str) -> list[tuple[str, str]]:
    """The template as (kind, text) pairs whose texts, joined, are the template.

    White space that a `-` in a tag removes may be missing from the texts: it renders as nothing.
    """
    from jinja2 import Environment, TemplateSyntaxError

    try:
        return [(kind, value) for _, kind, value in Environment().lex(template)]
    except TemplateSyntaxError:
        return [("data", template)]


def _expression_end(tokens: list[tuple[str, str]], position: int) -> int | None:
    if tokens[position][0] != "variable_begin":
        return None
    for index in range(position, len(tokens)):
        if tokens[index][0] == "variable_end":
            return index
    return None


def _mark(tokens: list[tuple[str, str]]) -> str | None:
    """One `{{ … }}` with markers, or None if it is not a sum with a message's content in it."""
    opening, closing = tokens[0][1], tokens[-1][1]
    terms = _terms(tokens[1:-1])
    contents = [i for i, term in enumerate(terms) if _message_of(term) is not None]
    if len(contents) != 1 or contents[0] + 1 >= len(terms):
        return None
    at = contents[0]
    message = _message_of(terms[at])
    whole, before, rest = (_text(part) for part in (terms, terms[:at], terms[at + 2 :]))
    answer = _text(terms[at : at + 2])
    # Empty expressions stand where blocks would otherwise swallow the template's white space.
    return (
        f"{opening} '' }}}}{{% if {message}['role'] == 'assistant' %}}"
        + (f"{{{{ {before} }}}}" if before else "")
        + f"{{% generation %}}{{{{ {answer} }}}}{{% endgeneration %}}"
        + (f"{{{{ {rest} }}}}" if rest else "")
        + f"{{% else %}}{{{{ {whole} }}}}{{% endif %}}{{{{ '' {closing}"
    )


def _terms(tokens: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The operands of the outermost `+`."""
    terms: list[list[tuple[str, str]]] = [[]]
    depth = 0
    for kind, value in tokens:
        if kind == "operator":
            depth += (value in "([{") - (value in ")]}")
            if value == "+" and depth == 0:
                terms.append([])
                continue
        terms[-1].append((kind, value))
    return terms


def _message_of(term: list[tuple[str, str]]) -> str | None:
    """`message` of `message['content']` or `message.content`, filters allowed; else None."""
    words = [(kind, value) for kind, value in term if kind != "whitespace"]
    match [value for _, value in words]:
        case [name, "[", "'content'" | '"content"', "]", *filters] if words[0][0] == "name":
            return name if not filters or filters[0] == "|" else None
        case [name, ".", "content", *filters] if words[0][0] == "name":
            return name if not filters or filters[0] == "|" else None
    return None


def _text(terms: Sequence[list[tuple[str, str]]]) -> str:
    return " + ".join("".join(value for _, value in term).strip() for term in terms)
