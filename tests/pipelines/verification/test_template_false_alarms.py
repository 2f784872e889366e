"""Real templates: those that the installed packages ship for published models stay silent."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mistral_common.integrations.chat_templates.chat_templates import generate_chat_template
from mistral_common.tokens.tokenizers.base import TokenizerVersion

from pipelines.verification.template_judge import judge_template
from pipelines.verification.template_render import judge_renders, render

# Refused, and rightly: vLLM's own fallback for Moondream changes what users wrote when it starts
# with 'caption' or 'describe', and its fallback for Kimi-Audio reads another variable than the one
# that conversations come in, so nothing that a user says arrives.
NOTED_ONLY = {"template.no-system", "template.reads-system"}
RIGHTLY_REFUSED = {"moondream3.py", "template_kimi_audio.jinja"}


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def packaged() -> Iterator[tuple[str, str]]:
    """Template files, and strings in model code that are templates."""
    vllm_templates = folder_of("vllm") / "transformers_utils" / "chat_templates"
    for folder in (folder_of("trl") / "chat_templates", vllm_templates):
        for path in folder.glob("*.jinja"):
            yield path.name, path.read_text(encoding="utf-8")
    models = folder_of("transformers") / "models"
    processors = folder_of("vllm") / "transformers_utils" / "processors"
    for path in (*models.rglob("process*.py"), *processors.glob("*.py")):
        yield from _in_code(path)


def _in_code(path: Path) -> Iterator[tuple[str, str]]:
    source = path.read_text(encoding="utf-8")
    nodes = ast.walk(ast.parse(source)) if "{%" in source else ()
    for node in nodes:
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and all(mark in text for mark in ("{%", "for ", "messages")):
            yield path.name, text


def generated() -> Iterator[tuple[str, str]]:
    """The templates of every tokenizer version of Mistral, from their own generator."""
    for version, *flags in itertools.product(TokenizerVersion, *[(False, True)] * 4):
        effort = ("none", "high") if version == TokenizerVersion.v15 else None
        try:
            text = generate_chat_template(
                flags[0], version, *flags[1:], None, False, False, None, effort, effort and "none"
            )
        except ValueError:
            continue  # a combination that no model has
        yield f"mistral {version.value} {flags}", text


def test_published_templates_are_admitted() -> None:
    texts = {text: name for name, text in itertools.chain(packaged(), generated())}
    assert len(texts) > 100
    refused = {
        name
        for text, name in texts.items()
        if {rule for rule, _ in (*judge_template(text), *judge_renders(text, render(text)))}
        - NOTED_ONLY
    }
    assert refused == RIGHTLY_REFUSED
