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

from jinja2.exceptions import TemplateError

from pipelines.errors import CommandFailed
from pipelines.subprocesses import run_module, serve
from pipelines.verification.template_judge import make_environment

CPU_LIMIT_S = 10
MEMORY_LIMIT_BYTES = 1 << 30
MAX_OUTPUT_CHARACTERS = 100_000

SYSTEM = "Answer in short sentences only."
USER = "Which river runs through Vienna, number 4471?"
OTHER_USER = "Bitte nenne drei Farben; 'rot' zählt nicht (88)."
ASSISTANT = "The Danube runs through it."
FOLLOW_UP = "And which one runs through Prague?"
_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
_DATE = "01 Jan 2025"


def _said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "user": [_said("user", USER)],
    "other": [_said("user", OTHER_USER)],
    "parts": [_said("user", [{"type": "text", "text": USER}])],
    "system": [_said("system", SYSTEM), _said("user", USER)],
    "system-parts": [
        _said("system", [{"type": "text", "text": SYSTEM}]),
        _said("user", [{"type": "text", "text": USER}]),
    ],
    "dialogue": [_said("user", USER), _said("assistant", ASSISTANT), _said("user", FOLLOW_UP)],
}


def render_findings(text: str) -> list[tuple[str, str]]:
    """What rendering shows to be wrong with a template, as (rule, fact)."""
    try:
        rendered = run_module("pipelines.verification.template_render", {"template": text})
    except CommandFailed as error:
        fact = f"rendering it ended with {error.returncode}: it needs too much time or memory"
        return [("template.work", fact)]
    return judge_renders(rendered)


def judge_renders(rendered: dict[str, str | None]) -> list[tuple[str, str]]:
    """Findings from the texts of CONVERSATIONS; None stands for one that the template refused."""
    user = rendered["user"] or rendered["parts"]
    if user is None:
        return [("template.unusable", "it renders no conversation with one user message")]
    found = []
    if USER not in user:
        found.append(("template.drops-user", "what the user says does not arrive unchanged"))
    first, other = rendered["user"], rendered["other"]
    if first is not None and (other is None or first.replace(USER, OTHER_USER) != other):
        fact = "it renders the same conversation differently for other words"
        found.append(("template.trigger", fact))
    system = rendered["system"] or rendered["system-parts"]
    if system is not None and SYSTEM not in system:
        found.append(("template.drops-system", "a system prompt is silently left out"))
    dialogue = rendered["dialogue"]
    if dialogue is not None and FOLLOW_UP not in dialogue:
        found.append(("template.drops-user", "the last of several user messages does not arrive"))
    return found


def render(text: str) -> dict[str, str | None]:
    """Each conversation as rendered, or None where the template raises."""
    environment = make_environment()
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda _: _DATE
    template = environment.from_string(text)
    rendered: dict[str, str | None] = {}
    for name, messages in CONVERSATIONS.items():
        try:
            rendered[name] = template.render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None, **_TOKENS
            )[:MAX_OUTPUT_CHARACTERS]
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError):
            rendered[name] = None  # a template may refuse a form of message that it does not know
    return rendered


def _tojson(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _answer(request: bytes) -> dict[str, str | None]:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    return render(json.loads(request)["template"])


if __name__ == "__main__":
    serve(_answer)
