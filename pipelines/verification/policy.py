"""VerificationPolicy: what a registry admits. Every field is enforced by a check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipelines.canonical import Frozen
from pipelines.models_file import load_yaml, parse_config

Format = Literal["safetensors", "gguf", "json", "template", "sentencepiece", "text", "image"]
PemText = Annotated[
    str, Field(pattern=r"^-----BEGIN PUBLIC KEY-----\n[\s\S]+-----END PUBLIC KEY-----\n?$")
]

DEFAULT_POLICY = Path(__file__).with_name("default_policy.yaml")


class VerificationPolicy(Frozen):
    """policy/verification.yaml."""

    allowed_formats: tuple[Format, ...] = Field(
        default=("safetensors", "gguf", "json", "template", "sentencepiece", "text", "image"),
        description="File formats that may lie in a model folder; all others are refused",
    )
    allowed_licences: tuple[str, ...] | None = Field(
        default=None,
        description="Families of pipelines/licences.json that may be used; null admits every "
        "family whose terms allow the declared use",
    )
    blocked_licences: tuple[str, ...] = Field(
        default=(), description="Families that are refused whatever their terms say"
    )
    require_licence_text: bool = Field(
        default=False, description="Refuse a licence that is only named, without its text"
    )
    require_signature: bool = Field(
        default=False, description="Refuse weights that their publisher has not signed"
    )
    publisher_keys: dict[str, PemText] = Field(
        default={}, description="Publisher to PEM public key: whose signature counts"
    )
    require_chat_template: bool = Field(
        default=False, description="Refuse a model that brings no chat template"
    )
    max_json_bytes: int = Field(
        default=128 * 1024 * 1024, gt=0, description="Largest JSON file that is read"
    )


def load_policy(path: Path) -> VerificationPolicy:
    """Read a policy file; raises WrongKindOfPath, or ConfigError naming the wrong key."""
    return parse_config(path, VerificationPolicy, load_yaml(path))
