"""What kind of model a repository holds, and so which smoke test it gets.

Told from the architecture that config.json names, by the tables with which transformers itself
maps architectures to tasks. The first row that fits decides:

| kind | the architecture stands in transformers' table of | what is tried |
|---|---|---|
| embeddings | any, when modules.json says sentence-transformers | three sentences |
| vision-language | image and text to text | three prompts, and a picture |
| speech-to-text | speech to text | a tone, and silence |
| sequence-to-sequence | text to text | three prompts |
| causal | text continuation | three prompts |
| masked | text with gaps | three sentences |
| embeddings | text encoding; or a bare model of a text family | three sentences |

Sentence-transformers comes first because some such models (Qwen3-Embedding) name a causal
architecture and were trained to embed, not to continue.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipelines.canonical import Frozen
from pipelines.smoke.plan import has_tokenizer

Kind = Literal[
    "causal",
    "sequence-to-sequence",
    "vision-language",
    "speech-to-text",
    "masked",
    "embeddings",
]

# In the order of the table above; the names are those of transformers' own tables and classes.
_BY_ARCHITECTURE: tuple[tuple[Kind, str, str], ...] = (
    ("vision-language", "IMAGE_TEXT_TO_TEXT", "AutoModelForImageTextToText"),
    ("speech-to-text", "SPEECH_SEQ_2_SEQ", "AutoModelForSpeechSeq2Seq"),
    ("sequence-to-sequence", "SEQ_TO_SEQ_CAUSAL_LM", "AutoModelForSeq2SeqLM"),
    ("causal", "CAUSAL_LM", "AutoModelForCausalLM"),
    ("masked", "MASKED_LM", "AutoModelForMaskedLM"),
    ("embeddings", "TEXT_ENCODING", "AutoModelForTextEncoding"),
)


# A bare model embeds text when its family reads text in one of these tables.
_TEXT = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM")


class Decision(Frozen):
    """A kind and the auto class that loads it, or the reason why there is no test.

    `architecture` is the class that must come of it, '' where the auto class loads a part of it.
    """

    kind: Kind | None = None
    auto_class: str = ""
    architecture: str = ""
    reason: str = ""


def kind_of(config: Mapping[str, Any], weights: Path) -> Decision:
    """Decide by the table above; imports transformers, so for a child process."""
    from transformers.models.auto import modeling_auto

    named = config.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    if not names:
        return Decision(reason="config.json names no architecture")
    if (weights / "modules.json").is_file():
        encoders = _classes(modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES)
        auto_class = "AutoModelForTextEncoding" if names[0] in encoders else "AutoModel"
        return _with_tokenizer(Decision(kind="embeddings", auto_class=auto_class), weights)
    for kind, table, auto_class in _BY_ARCHITECTURE:
        if names[0] in _classes(getattr(modeling_auto, _mapping(table))):
            decision = Decision(kind=kind, auto_class=auto_class, architecture=names[0])
            return _with_tokenizer(decision, weights)
    return _bare(names[0], weights) or Decision(reason=_untested(names[0]))


def _bare(architecture: str, weights: Path) -> Decision | None:
    """The decision about a model without a head; None when it is no such class."""
    from transformers.models.auto import modeling_auto

    tables = modeling_auto.MODEL_MAPPING_NAMES
    types = {key for key, value in tables.items() if architecture in _classes({key: value})}
    if not types:
        return None
    text = {key for table in _TEXT for key in getattr(modeling_auto, _mapping(table))}
    sees_or_hears = (weights / "preprocessor_config.json").is_file()
    if types & text and has_tokenizer(weights) and not sees_or_hears:
        return Decision(kind="embeddings", auto_class="AutoModel", architecture=architecture)
    return Decision(reason=f"{architecture} takes no plain text, and has no test of its own here")


def _untested(architecture: str) -> str:
    """Why a class gets no test: its task, by the first of transformers' tables that has it."""
    from transformers.models.auto import modeling_auto

    prefix, suffix = _mapping("|").split("|")
    for name in sorted(vars(modeling_auto)):
        if not (name.startswith(prefix) and name.endswith(suffix)):
            continue
        if architecture in _classes(getattr(modeling_auto, name)):
            task = name.removeprefix(prefix).removesuffix(suffix).lower().replace("_", " ")
            return f"{architecture} is a model for {task}, which has no test here"
    return f"transformers has no class {architecture}, and the publisher's is not run"


def _with_tokenizer(decision: Decision, weights: Path) -> Decision:
    return decision if has_tokenizer(weights) else Decision(reason="no tokenizer")


def _mapping(table: str) -> str:
    return f"MODEL_FOR_{table}_MAPPING_NAMES"


def _classes(mapping: Mapping[str, Any]) -> set[str]:
    """The class names of one table; some of its rows hold several."""
    found: set[str] = set()
    for value in mapping.values():
        found.update(value if isinstance(value, (list, tuple)) else (value,))
    return found
