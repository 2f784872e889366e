"""From a chunk of a document to the whole prompt, as text."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.batch.documents.document import Document
from pipelines.batch.job import Prompt
from pipelines.batch.settings import Reduce
from pipelines.batch.text import DocumentError, check_text
from pipelines.batch.tokens import ModelTokenizer, with_plain_globals
from pipelines.canonical import canonical_json, sha256_bytes
from pipelines.errors import ConfigError


class PromptBuilder:
    """Renders a job's prompt in a sandbox; a field that a document lacks is an error."""

    def __init__(
        self,
        prompt: Prompt,
        tokenizer: ModelTokenizer,
        key: str = "prompt.template",
        filters: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """`key` is what the job calls the template; raises ConfigError when it is none."""
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters.update(filters or {})
        try:
            self._template = with_plain_globals(environment.from_string(prompt.template))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                key,
                f"not a Jinja template (line {error.lineno}: {error.message})",
                "Correct the syntax.",
            ) from error
        self._as_it_is, self._tokenizer = not prompt.template, tokenizer
        system = prompt.system
        self._system = [] if system is None else [{"role": "system", "content": system}]

    def build(self, document: Document, text: str, chunk: int, chunks: int) -> str:
        """The prompt for one chunk, whose text is given; DocumentError when it cannot be made."""
        return self.whole(document, self.asked(document, text, chunk, chunks))

    def asked(self, document: Document, text: str, chunk: int, chunks: int) -> str:
        """What is asked, before the chat template; all that is said where it is a chat."""
        if self._as_it_is:
            return document.text
        fields = {**document.fields, "text": text, "id": document.id}
        fields["chunk"], fields["chunks"] = chunk, chunks
        return self.rendered(fields)

    def rendered(self, fields: Mapping[str, Any]) -> str:
        """The template with these fields; raises DocumentError."""
        try:
            return check_text(self._template.render(fields))
        except jinja2.UndefinedError as error:
            raise DocumentError("missing_field", str(error)) from error
        except DocumentError:
            raise
        except Exception as error:  # a row's failure becomes an error row
            raise _failed(error) from error

    def whole(self, document: Document, asked: str) -> str:
        """The prompt as the model reads it; DocumentError when its chat template fails."""
        try:
            if self._as_it_is and "prompt" in document.fields:
                return check_text(self._tokenizer.plain(document.fields["prompt"]))
            return check_text(self._tokenizer.chat(self._messages(document, asked)))
        except DocumentError:
            raise
        except Exception as error:  # chat templates raise what they like
            raise _failed(error) from error

    def _messages(self, document: Document, asked: str) -> list[dict[str, str]]:
        if not self._as_it_is:
            return [*self._system, {"role": "user", "content": asked}]
        messages: list[dict[str, str]] = document.fields["messages"]
        own = messages[0]["role"] == "system"  # a chat's own system message comes first
        return messages if own else [*self._system, *messages]


def names_in(template: str) -> set[str]:
    """The fields that a template names; for one that `PromptBuilder` has taken."""
    environment = ImmutableSandboxedEnvironment()
    return jinja2.meta.find_undeclared_variables(environment.parse(template))


def names_id(prompt: Prompt) -> bool:
    """Whether a prompt's template names the document's id; for one that is a template."""
    return "id" in names_in(prompt.template)


def _failed(error: Exception) -> DocumentError:
    """The row's error, with the end of the traceback: the template's line stands there."""
    return DocumentError("prompt_failed", "".join(traceback.format_exception(error, limit=-2)))


def reduce_prompt(prompt: Prompt, reduce: Reduce) -> Prompt:
    """What combines answers, as a prompt; its system text is the job's unless it has its own."""
    system = prompt.system if reduce.system is None else reduce.system
    return Prompt(template=reduce.template, system=system)


def prompt_sha256(prompt: Prompt) -> str:
    """sha256 of the prompt's template and system text."""
    return sha256_bytes(canonical_json(prompt.model_dump(mode="json")))
