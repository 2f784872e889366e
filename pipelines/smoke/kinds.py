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
| embeddings | text encoding, or any bare model with a tokenizer | three sentences |

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
        mapping = getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES")
        if names[0] in _classes(mapping):
            decision = Decision(kind=kind, auto_class=auto_class, architecture=names[0])
            return _with_tokenizer(decision, weights)
    if names[0] in _classes(modeling_auto.MODEL_MAPPING_NAMES):
        if has_tokenizer(weights) and not (weights / "preprocessor_config.json").is_file():
            return Decision(kind="embeddings", auto_class="AutoModel", architecture=names[0])
        return Decision(reason=f"{names[0]} takes no plain text, and has no test of its own here")
    tables = [
        name.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES").lower().replace("_", " ")
        for name in sorted(vars(modeling_auto))
        if name.startswith("MODEL_FOR_")
        and name.endswith("_MAPPING_NAMES")
        and names[0] in _classes(getattr(modeling_auto, name))
    ]
    if tables:
        return Decision(reason=f"{names[0]} is a model for {tables[0]}, which has no test here")
    return Decision(reason=f"transformers has no class {names[0]}, and the publisher's is not run")


def _with_tokenizer(decision: Decision, weights: Path) -> Decision:
    return decision if has_tokenizer(weights) else Decision(reason="no tokenizer")


def _classes(mapping: Mapping[str, Any]) -> set[str]:
    """The class names of one table; some of its rows hold several."""
    found: set[str] = set()
    for value in mapping.values():
        found.update(value if isinstance(value, (list, tuple)) else (value,))
    return found
