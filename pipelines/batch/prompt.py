"""From a chunk of a document to the whole prompt, as text."""

from __future__ import annotations

import traceback

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.batch.corpus import Document
from pipelines.batch.job import Prompt
from pipelines.batch.text import DocumentError, check_text
from pipelines.batch.tokens import ModelTokenizer
from pipelines.canonical import canonical_json, sha256_bytes
from pipelines.errors import ConfigError


class PromptBuilder:
    """Renders a job's prompt in a sandbox; a field that a document lacks is an error."""

    def __init__(self, prompt: Prompt, tokenizer: ModelTokenizer) -> None:
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        try:
            self._template = environment.from_string(prompt.template)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                "prompt.template",
                f"not a Jinja template (line {error.lineno}: {error.message})",
                "Correct the syntax.",
            ) from error
        self._system, self._tokenizer = prompt.system, tokenizer

    def build(self, document: Document, text: str, chunk: int, chunks: int) -> str:
        """The prompt for one chunk, whose text is given; DocumentError when it cannot be made."""
        own = {"text": text, "id": document.id, "chunk": chunk, "chunks": chunks}
        try:
            user = self._template.render({**document.fields, **own})
        except jinja2.UndefinedError as error:
            raise DocumentError("missing_field", str(error)) from error
        except Exception as error:  # a row's failure becomes an error row
            raise _failed(error) from error
        try:
            return check_text(self._tokenizer.chat(self._system, check_text(user)))
        except DocumentError:
            raise
        except Exception as error:  # chat templates raise what they like
            raise _failed(error) from error


def _failed(error: Exception) -> DocumentError:
    """The row's error, with the end of the traceback: the template's line stands there."""
    return DocumentError("prompt_failed", "".join(traceback.format_exception(error, limit=-2)))


def prompt_sha256(prompt: Prompt) -> str:
    """sha256 of the prompt's template and system text."""
    return sha256_bytes(canonical_json(prompt.model_dump(mode="json")))
