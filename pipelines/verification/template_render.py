"""Render a chat template on standard conversations, in a process with limits.

Only templates that `template_judge` admits come here. What the allow-list cannot see is what a
template leaves out: a system prompt that vanishes, a user's words that do not arrive. The child
has limits on time and memory, so that a template that computes without end is a finding and not a
hang.
"""

from __future__ import annotations

import json
import resource
from typing import Any

from jinja2 import Template
from jinja2.exceptions import TemplateError

from pipelines.errors import CommandFailed
from pipelines.subprocesses import run_module, serve
from pipelines.verification.template_judge import make_environment

CPU_LIMIT_S = 3  # honest templates need milliseconds
MEMORY_LIMIT_BYTES = 1 << 30
MAX_OUTPUT_CHARACTERS = 100_000

SYSTEM = "Answer in short sentences only."
USER = "Which river runs through Vienna, number 4471?"
OTHER_USER = "Bitte nenne drei Farben; 'rot' zählt nicht (88)."
ASSISTANT = "The Danube runs through it."
FOLLOW_UP = "And which one runs through Prague?"
_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
_DATE = "01 Jan 2025"

# Each in two forms: content as a text, and as a list of parts (what multimodal models take).
DIALOGUES: dict[str, list[tuple[str, str]]] = {
    "user": [("user", USER)],
    "other": [("user", OTHER_USER)],
    "system": [("system", SYSTEM), ("user", USER)],
    "dialogue": [("user", USER), ("assistant", ASSISTANT), ("user", FOLLOW_UP)],
}
FORMS = ("text", "parts")


def _messages(dialogue: list[tuple[str, str]], form: str) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": said if form == "text" else [{"type": "text", "text": said}]}
        for role, said in dialogue
    ]


def render_findings(text: str) -> list[tuple[str, str]]:
    """What rendering shows to be wrong with a template, as (rule, fact)."""
    try:
        rendered = run_module("pipelines.verification.template_render", {"template": text})
    except CommandFailed as error:
        fact = f"rendering it ended with {error.returncode}: it needs too much time or memory"
        return [("template.work", fact)]
    return judge_renders(text, rendered)


def judge_renders(
    template: str, rendered: dict[str, dict[str, str | None]]
) -> list[tuple[str, str]]:
    """Findings from what `render` returns, in the form of message that the template understands.

    A template that names the system role and leaves its text out does so on purpose; one that does
    not know the role (rule `template.no-system`) is merely old.
    """
    if all(text is None for form in rendered.values() for text in form.values()):
        return [("template.unusable", "it renders no conversation")]
    understood = [form for form in rendered.values() if USER in (form["user"] or "")]
    if not understood:
        return [("template.drops-user", "what the user says does not arrive unchanged")]
    texts, found = understood[0], []
    if (texts["user"] or "").replace(USER, OTHER_USER) != texts["other"]:
        fact = "it renders the same conversation differently for other words"
        found.append(("template.trigger", fact))
    if texts["system"] is not None and SYSTEM not in texts["system"]:
        rule = "template.drops-system" if "system" in template else "template.no-system"
        found.append((rule, "a system prompt is silently left out"))
    if texts["dialogue"] is not None and FOLLOW_UP not in texts["dialogue"]:
        found.append(("template.drops-user", "the last of several user messages does not arrive"))
    return found


def render(text: str) -> dict[str, dict[str, str | None]]:
    """Every dialogue in every form as text, or None where the template raises."""
    environment = make_environment()
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda _: _DATE
    template = environment.from_string(text)
    return {
        form: {
            name: _render(template, _messages(dialogue, form))
            for name, dialogue in DIALOGUES.items()
        }
        for form in FORMS
    }


def _render(template: Template, messages: list[dict[str, Any]]) -> str | None:
    try:
        text = template.render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None, **_TOKENS
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError):
        return None  # a template may refuse a form of message that it does not know
    return text[:MAX_OUTPUT_CHARACTERS]


def _tojson(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _answer(request: bytes) -> dict[str, dict[str, str | None]]:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    return render(json.loads(request)["template"])


if __name__ == "__main__":
    serve(_answer)
