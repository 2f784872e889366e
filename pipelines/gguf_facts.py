"""What a GGUF file says about itself, and what its tensors are.

The declared file type is a label: a file that says "mostly Q4_1" holds other types too. So the
histogram of tensor types is read from the tensors.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines.canonical import Frozen


class GgufFacts(Frozen):
    """Metadata of one GGUF file; '' and None where the file is silent."""

    architecture: str
    name: str = ""
    licence: str = Field(default="", description="general.license, the publisher's claim")
    licence_name: str = ""
    licence_link: str = ""
    file_type: int | None = Field(default=None, description="general.file_type, a declaration")
    context_length: int | None = None
    chat_template: str = ""
    tokenizer_model: str = ""
    adds_bos: bool | None = Field(description="whether text must start with the BOS token")
    bos_id: int | None = None
    eos_id: int | None = None
    tensors: dict[str, int] = Field(description="tensor type to number of tensors")
    parameters: int = Field(description="number of scalar weights in all tensors")


class UnreadableGguf(Exception):
    """A file that the gguf package cannot parse; the stage names it to the user."""


def read_facts(path: Path) -> GgufFacts:
    """Read metadata and tensor headers (weights stay on disk). Raises UnreadableGguf.

    For run in a child process: the parser trusts counts that the file states.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(str(path))
        fields: dict[str, Any] = {
            key: reader.fields[key].contents() for key in reader.fields if _is_scalar(reader, key)
        }
        kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        parameters = sum(tensor.n_elements for tensor in reader.tensors)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise UnreadableGguf(f"{type(error).__name__}: {error}") from error
    return _facts(fields, dict(sorted(kinds.items())), parameters)


def _is_scalar(reader: Any, key: str) -> bool:
    """Whether a field is one value: token lists of 100,000 strings are not wanted here."""
    return len(reader.fields[key].data) == 1 and reader.fields[key].types[0].name != "ARRAY"


def _facts(fields: dict[str, Any], tensors: dict[str, int], parameters: int) -> GgufFacts:
    architecture = str(fields.get("general.architecture", ""))
    tokenizer = str(fields.get("tokenizer.ggml.model", ""))
    return GgufFacts(
        architecture=architecture,
        name=str(fields.get("general.name", "")),
        licence=str(fields.get("general.license", "")),
        licence_name=str(fields.get("general.license.name", "")),
        licence_link=str(fields.get("general.license.link", "")),
        file_type=fields.get("general.file_type"),
        context_length=fields.get(f"{architecture}.context_length"),
        chat_template=str(fields.get("tokenizer.chat_template", "")),
        tokenizer_model=tokenizer,
        adds_bos=_adds_bos(fields, tokenizer),
        bos_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_id=fields.get("tokenizer.ggml.eos_token_id"),
        tensors=tensors,
        parameters=parameters,
    )


def _adds_bos(fields: dict[str, Any], tokenizer: str) -> bool | None:
    """The file's own word, else llama.cpp's default: SentencePiece vocabularies add BOS."""
    if "tokenizer.ggml.add_bos_token" in fields:
        return bool(fields["tokenizer.ggml.add_bos_token"])
    return {"llama": True, "gpt2": False}.get(tokenizer)
