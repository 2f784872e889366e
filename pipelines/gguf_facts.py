"""What a GGUF file says about itself, and what its tensors are.

The declared file type is a label: a file that says "mostly Q4_1" holds other types too. So the
histogram of tensor types is read from the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from pipelines.canonical import Frozen
from pipelines.verification.gguf_header import Scalar, read_gguf

_PRE_TOKENIZERS_WITH_BOS = (
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "tekken",
    "chameleon",
)


class GgufFacts(Frozen):
    """Metadata of one GGUF file; '' and None where the file is silent."""

    architecture: str = ""
    name: str = ""
    licence: str = Field(default="", description="general.license, the publisher's claim")
    licence_name: str = ""
    licence_link: str = ""
    file_type: int | None = Field(default=None, description="general.file_type, a declaration")
    context_length: int | None = Field(default=None, description="tokens")
    chat_template: str = ""
    tokenizer_model: str = ""
    adds_bos: bool | None = Field(default=None, description="whether text must start with BOS")
    bos_id: int | None = None
    eos_id: int | None = None
    tensors: dict[str, int] = Field(description="tensor type to number of tensors")
    parameters: int = Field(description="number of scalar weights in all tensors")
    split_count: int = Field(default=1, description="number of files that the model lies in")
    size_bytes: int = 0


def read_facts(path: Path) -> GgufFacts:
    """Read a file's keys and tensor descriptions; the weights are not read.

    Raises MalformedFile for a header that breaks the format's rules: programs that trust such a
    header may be made to read or write out of bounds, so nothing is handed one.
    """
    header = read_gguf(path)
    keys = header.keys
    architecture = _text(keys, "general.architecture")
    return GgufFacts(
        architecture=architecture,
        name=_text(keys, "general.name"),
        licence=_text(keys, "general.license"),
        licence_name=_text(keys, "general.license.name"),
        licence_link=_text(keys, "general.license.link"),
        file_type=_number(keys, "general.file_type"),
        context_length=_number(keys, f"{architecture}.context_length"),
        chat_template=_text(keys, "tokenizer.chat_template"),
        tokenizer_model=_text(keys, "tokenizer.ggml.model"),
        adds_bos=says_bos(keys),
        bos_id=_number(keys, "tokenizer.ggml.bos_token_id"),
        eos_id=_number(keys, "tokenizer.ggml.eos_token_id"),
        tensors=header.histogram(),
        parameters=sum(tensor.elements for tensor in header.tensors),
        split_count=_number(keys, "split.count") or 1,
        size_bytes=path.stat().st_size,
    )


def _text(keys: Mapping[str, Scalar], key: str) -> str:
    value = keys.get(key, "")
    return value if isinstance(value, str) else ""


def _number(keys: Mapping[str, Scalar], key: str) -> int | None:
    value = keys.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def says_bos(keys: Mapping[str, Scalar]) -> bool | None:
    """Whether text must start with BOS: the file's own word, else llama.cpp's default.

    SentencePiece vocabularies add BOS; byte-level ones do for some pre-tokenizers
    (llama.cpp, src/llama-vocab.cpp, llama_vocab::impl::load).
    """
    stated = keys.get("tokenizer.ggml.add_bos_token")
    if isinstance(stated, bool):
        return stated
    if _text(keys, "tokenizer.ggml.pre") in _PRE_TOKENIZERS_WITH_BOS:
        return True
    return {"llama": True, "gpt2": False}.get(_text(keys, "tokenizer.ggml.model"))
