"""The model's tokenizer and chat template, read from its folder without loading the model stack.

`tokenizers` reads tokenizer.json in milliseconds, where transformers takes seconds to import; the
ids are the same (held by a test against transformers). The chat template runs in the sandbox and
with the settings that transformers uses, but for the clock: `strftime_now` is not defined, so that
a prompt does not depend on the day (templates that use it test for it first and fall back).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from pipelines.batch.job import Chunking
from pipelines.errors import ConfigError
from pipelines.template import default_templates


class ModelTokenizer:
    """Renders, encodes and divides text as the model in `folder` expects it."""

    def __init__(self, folder: Path, *, chat: bool = True) -> None:
        """Without `chat` the model's chat template is passed over, as for embeddings."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(
                path,
                "there is no tokenizer.json",
                "Ingest the model again with a fast tokenizer (AutoTokenizer.save_pretrained).",
            )
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._config: dict[str, Any] = _read_json(folder / "tokenizer_config.json")
        found = default_templates(folder)
        self.template = found[0].text if found and chat else ""

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The whole prompt as text: through the chat template, or joined where there is none.

        A message is {"role", "content"}. Raises whatever the template raises.
        """
        if not self.template:
            return "\n\n".join(message["content"] for message in messages)
        return self._compiled.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self._special_tokens,
        )

    def plain(self, text: str) -> str:
        """A prompt that goes without the chat template, as a whole prompt."""
        if not self.template:
            return text
        starts = self._tokenizer.encode("", add_special_tokens=True).ids
        return "".join(self._tokenizer.id_to_token(start) or "" for start in starts) + text

    def most_tokens(self, size_bytes: int) -> int | None:
        """No text of so many bytes of UTF-8 has more tokens than this; None if that is not known.

        Byte pairs begin with one token a byte and merge; NFC makes a text at most three times as
        long (Unicode Standard Annex 15). Of other tokenizers nothing is claimed.
        """
        return None if self._tokens_a_byte is None else 1 + size_bytes * self._tokens_a_byte

    @cached_property
    def _tokens_a_byte(self) -> int | None:
        described = json.loads(self._tokenizer.to_str())
        splitter = described.get("pre_tokenizer") or {}
        splitters = splitter.get("pretokenizers") or [splitter]
        if described["model"].get("type") != "BPE" or not any(
            part.get("type") == "ByteLevel" for part in splitters
        ):
            return None
        normalizer = (described.get("normalizer") or {}).get("type")
        return {None: 1, "NFC": 3}.get(normalizer)

    def encode(self, prompts: list[str]) -> list[list[int]]:
        """Token ids of whole prompts; special tokens are the template's business if it exists."""
        special = not self.template
        encodings = self._tokenizer.encode_batch_fast(prompts, add_special_tokens=special)
        ids = [encoding.ids for encoding in encodings]
        if special and self._config.get("add_bos_token"):
            bos = self._tokenizer.token_to_id(self._special_tokens.get("bos_token", ""))
            ids = [row if bos is None or row[:1] == [bos] else [bos, *row] for row in ids]
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text by itself, without special tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def spans(self, text: str, chunking: Chunking | None) -> list[tuple[int, int]]:
        """Where the chunks of `text` begin and end, in characters.

        They cover the text: without overlap, each begins where the one before ended.
        """
        if chunking is None or chunking.tokens is None:
            return [(0, len(text))]
        most = self.most_tokens(len(text.encode()))
        if most is not None and most <= chunking.tokens:
            return [(0, len(text))]
        return self.divided(text, chunking.tokens, chunking.overlap_tokens)

    def divided(self, text: str, tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
        """`spans` for chunks of `tokens` tokens."""
        starts = [
            start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets
        ]
        step = tokens - overlap_tokens
        firsts = range(0, max(len(starts) - overlap_tokens, 1), step)
        spans = []
        for first in firsts:
            after = first + tokens
            begin = starts[first] if first else 0
            spans.append((begin, starts[after] if after < len(starts) else len(text)))
        return spans

    def holds_control_tokens(self, text: str) -> bool:
        """Whether `text` spells a token that steers the model, such as the end of a turn."""
        if not any(first in text for first in self._control_begins):
            return False
        return self._control.search(text) is not None

    @cached_property
    def _control_begins(self) -> frozenset[str]:
        """First characters of these tokens: looking for those is much faster."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return frozenset(token.content[0] for token in added if token.special and token.content)

    @cached_property
    def _control(self) -> re.Pattern[str]:
        added = self._tokenizer.get_added_tokens_decoder().values()
        spelled = [re.escape(token.content) for token in added if token.special]
        return re.compile("|".join(spelled) or r"(?!)")

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        """bos_token and its like, as the template names them."""
        named = {}
        for key, value in self._config.items():
            if key.endswith("_token") and key not in ("add_bos_token", "add_eos_token"):
                text = value.get("content") if isinstance(value, dict) else value
                if isinstance(text, str):
                    named[key] = text
        return named

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        environment.filters["tojson"] = plain_json
        environment.globals["raise_exception"] = _raise_exception
        return with_plain_globals(environment.from_string(self.template))


def with_plain_globals(template: jinja2.Template) -> jinja2.Template:
    """`template` with its globals in one dict: rendering copies them, slowly from Jinja's chain."""
    template.globals = dict(template.globals)
    return template


def context_length(folder: Path) -> int | None:
    """The longest context that the model's config.json allows, in tokens, if it says."""
    config = read_config(folder)
    for part in (config, config.get("text_config") or {}):
        if isinstance(length := part.get("max_position_embeddings"), int):
            return length
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json, {} where there is none; raises ConfigError unless it is an object."""
    return _read_json(folder / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(path, f"not JSON ({error})", "Ingest the model again.") from error
    if not isinstance(value, dict):
        raise ConfigError(path, "not a JSON object", "Ingest the model again.")
    return value


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's part for training; here it only wraps it."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def plain_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes HTML, which a prompt must not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
