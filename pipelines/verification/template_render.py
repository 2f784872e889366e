"""Render a chat template on standard conversations, in a process with limits.

Only templates that `template_judge` admits come here. What the allow-list cannot see is what a
template leaves out: a system prompt that vanishes, a user's words that do not arrive. The child
has limits on time and memory, so that a template that computes without end is a finding and not a
hang.
"""

from __future__ import annotations

import json
import re
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
    "whole": [("system", SYSTEM), ("user", USER), ("assistant", ASSISTANT), ("user", FOLLOW_UP)],
}
# More and longer than a template has reason to expect: what it cuts off shows here.
LONG = " ".join(f"Line {number} of a long text, {number * 7}." for number in range(160))
TURNS = [f"Turn {number}: what comes after {number * 3}?" for number in range(11)]
DIALOGUES["long"] = [("user", LONG)]
DIALOGUES["long system"] = [("system", LONG), ("user", USER)]
DIALOGUES["turns"] = [("assistant" if at % 2 else "user", text) for at, text in enumerate(TURNS)]
# Natural language, as opposed to role names and headings: a sentence with its full stop.
_SENTENCE = re.compile(r"[A-Z][\w']*(?: [\w',-]+)+[.!?](?:\s|$|<|\[)")
# What honest instructions, even long ones, do not say.
_STEERING = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,30}\b(previous|prior|above|earlier|all|instructions?)\b"
    r"|\brecommend\b|\bpromot(e|ing)\b|never mention|\brivals?\b|\bcompetitors?\b|\bsecretly\b"
    r"|do not (tell|reveal|mention|disclose)|\bpasswords?\b|\bcredentials?\b|\bapi keys?\b"
    r"|\bsend (it|this|the|all)\b.{0,30}\bto\b",
    re.IGNORECASE | re.DOTALL,
)
# Between one message and the next: marks, one label a line, blank lines.
_MARKUP = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}|\|[^|]*\|")
_LABEL = re.compile(r"\s*(#+\s*)?([\w-]+(\s[\w-]+){0,2}\s*)?[:：]?\s*")
_WRONG_ROLE = re.compile(r"\b(system|assistant|developer)\W*$", re.IGNORECASE)
_ROLE = re.compile(r"\S*(user|human)\S*\s*$", re.IGNORECASE)
PROMPT_FLAG = "add_generation_prompt"
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
    for said in (USER, ASSISTANT, FOLLOW_UP):
        if texts["dialogue"] is not None and said not in texts["dialogue"]:
            found.append(("template.drops-user", f"of several messages, {said!r} does not arrive"))
            break
    found += _judge_cuts(texts)
    return [*found, *_judge_additions(texts), *_judge_prompt(template, texts)]


def _judge_cuts(texts: dict[str, str | None]) -> list[tuple[str, str]]:
    """What arrives when it is short must arrive when it is long, and so must every turn."""
    found = []
    if texts["long"] is not None and LONG not in texts["long"]:
        found.append(("template.drops-user", "a long message does not arrive whole"))
    short, long = texts["system"], texts["long system"]
    if short is not None and long is not None and SYSTEM in short and LONG not in long:
        found.append(("template.drops-system", "a long system prompt does not arrive whole"))
    turns, dialogue = texts["turns"], texts["dialogue"]
    whole = dialogue is not None and _in_order([USER, ASSISTANT, FOLLOW_UP], dialogue)
    if whole and turns is not None and not _in_order(TURNS, turns):
        found.append(("template.drops-user", "of many messages, not all arrive"))
    return found


def _judge_additions(texts: dict[str, str | None]) -> list[tuple[str, str]]:
    """What stands between and around the messages: marks and headings, no speech."""
    found: list[tuple[str, str]] = []
    for name, said in (
        ("user", [USER]),
        ("dialogue", [USER, ASSISTANT, FOLLOW_UP]),
        ("system", [SYSTEM, USER]),
        ("whole", [SYSTEM, USER, ASSISTANT, FOLLOW_UP]),
    ):
        text = texts.get(name)
        if text is None or not _in_order(said, text):
            continue
        gaps, rest = [], text
        for each in said:
            before, _, rest = rest.partition(each)
            gaps.append(before)
        spoken = (_SENTENCE.search(gap) for gap in [*gaps[1:], rest])
        facts = [f"it adds {match[0].strip()!r} to a conversation" for match in spoken if match]
        facts += [f"it adds {text!r} to a message" for text in map(_added, gaps[1:]) if text]
        found += [("template.adds", fact) for fact in facts]
        if name == "user" and (match := _WRONG_ROLE.search(gaps[0])):
            fact = f"what the user says is marked {match[0].strip()!r}"
            found.append(("template.role", fact))
        if match := _STEERING.search(gaps[0]):
            found.append(("template.adds", f"it adds {match[0]!r} before a conversation"))
        opening = _ROLE.search(gaps[0])
        if name == "user" and opening is not None and text.count(opening[0]) > 1:
            found.append(("template.adds", "it adds a message of the user's role"))
    return list(dict.fromkeys(found))


def _added(gap: str) -> str:
    """Text that follows a message on its own line, and is neither a mark nor a label."""
    first = gap.split("\n")[0]
    plain = _MARKUP.sub("\n", first).split("\n")[0]
    is_label = _LABEL.fullmatch(plain) and (not plain.strip() or ":" in plain or "：" in plain)
    return "" if is_label or not any(c.isalpha() for c in plain) else plain.strip()


def _in_order(said: list[str], text: str) -> bool:
    places = [text.find(each) for each in said]
    return -1 not in places and places == sorted(places)


def _judge_prompt(template: str, texts: dict[str, str | None]) -> list[tuple[str, str]]:
    """Whoever asks for the start of an answer gets it, where the template knows of it."""
    if PROMPT_FLAG in template and texts["user"] is not None and texts["user"] == texts.get("open"):
        fact = f"{PROMPT_FLAG} is read, and changes nothing"
        return [("template.ignores-prompt", fact)]
    return []


def render(text: str) -> dict[str, dict[str, str | None]]:
    """Every dialogue in every form as text, or None where the template raises."""
    environment = make_environment()
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda _: _DATE
    template = environment.from_string(text)
    rendered = {
        form: {
            name: _render(template, _messages(dialogue, form))
            for name, dialogue in DIALOGUES.items()
        }
        for form in FORMS
    }
    for form in FORMS:
        rendered[form]["open"] = _render(template, _messages(DIALOGUES["user"], form), False)
    return rendered


def _render(template: Template, messages: list[dict[str, Any]], starts: bool = True) -> str | None:
    try:
        text = template.render(
            messages=messages, add_generation_prompt=starts, tools=None, documents=None, **_TOKENS
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
