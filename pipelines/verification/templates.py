"""All chat templates of a folder: where they lie, whether they agree, what they do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from pipelines.errors import ConfigError, MalformedFile
from pipelines.records import Finding
from pipelines.template import (
    STANDALONE,
    TOKENIZER_CONFIG,
    FoundTemplate,
    default_templates,
    in_file,
    in_gguf,
    in_json,
    read_text,
)
from pipelines.verification.contents import Contents
from pipelines.verification.findings import info, quoted, refusal, warning
from pipelines.verification.policy import VerificationPolicy
from pipelines.verification.template_judge import judge_template
from pipelines.verification.template_render import render_findings

_REMEDY = (
    "Compare the template with the base model's; take the publisher's own, or write a plain one."
)
_WORTH_KNOWING = frozenset({"template.no-system", "template.reads-system"})
_LOADED_BY_TOKENIZER = ("additional_chat_templates/default.jinja", STANDALONE, TOKENIZER_CONFIG)


def check(contents: Contents, policy: VerificationPolicy) -> Iterator[Finding]:
    """Find, judge, render and compare every template; the same text is judged once."""
    found = list(_find(contents))
    for template in found:
        for rule, fact in _judge(template):
            place = f" ({quoted(template.name)})" if template.name != "default" else ""
            make = warning if rule in _WORTH_KNOWING else refusal
            yield make(rule, template.file, fact + place, _REMEDY)
    defaults = _defaults(contents)
    yield from _contradictions(defaults)
    if not defaults:
        fact = "the model brings no chat template: only plain prompts can be given to it"
        remedy = "Take an instruct model, or add a template and ingest it as a model of its own."
        make = refusal if policy.require_chat_template else info
        yield make("template.absent", "", fact, remedy)


def chosen_sha256(contents: Contents) -> str:
    """sha256 of the template that the tokenizer loads; '' where there is none that can be read."""
    defaults = _defaults(contents)
    return defaults[0].sha256 if defaults else ""


def _defaults(contents: Contents) -> list[FoundTemplate]:
    try:
        return default_templates(contents.root)
    except (ConfigError, MalformedFile, OSError):
        return []  # the file that cannot be read has its own refusal


def _find(contents: Contents) -> Iterator[FoundTemplate]:
    for name in contents.names("template"):
        yield in_file(name, read_text(contents.root / name))
    for name, document in contents.documents.items():
        yield from in_json(name, document)
    for name, tensors in contents.safetensors.items():
        yield from in_json(name, tensors.metadata)
    for name, header in contents.ggufs.items():
        yield from in_gguf(name, header.keys)


def _judge(template: FoundTemplate) -> tuple[tuple[str, str], ...]:
    findings = _judge_text(template.text, template.declared)
    if not template.declared:
        # A text that no loader takes for a template may fail to parse; it may not do harm.
        return tuple(found for found in findings if found[0] != "template.syntax")
    return findings


@lru_cache(maxsize=64)
def _judge_text(text: str, declared: bool) -> tuple[tuple[str, str], ...]:
    """Judge, and render what the allow-list admits (nothing else is ever run)."""
    judged = judge_template(text)
    if not declared or any(rule not in _WORTH_KNOWING for rule, _ in judged):
        return tuple(judged)
    return (*judged, *render_findings(text))


def _contradictions(defaults: list[FoundTemplate]) -> Iterator[Finding]:
    """Default templates that differ: which one counts would depend on the loader."""
    for other in defaults[1:]:
        first = defaults[0]
        if other.text.strip() == first.text.strip():
            continue
        fact = f"its chat template differs from the one in {quoted(first.file)}"
        if other.file in _LOADED_BY_TOKENIZER or other.file.endswith(".gguf"):
            yield refusal("template.contradiction", other.file, fact, "Keep one of them.")
        else:
            remedy = "Processors and tokenizers render differently; evaluate with the one you use."
            yield warning("template.contradiction", other.file, fact, remedy)
