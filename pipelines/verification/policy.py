"""VerificationPolicy: what a registry admits. Every field is enforced by a check."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.canonical import Frozen
from pipelines.models_file import load_yaml, parse_config
from pipelines.signatures.publishers import Publisher, with_trust_roots
from pipelines.verification.waivers import Day, Text

Format = Literal["safetensors", "gguf", "json", "template", "sentencepiece", "text", "image"]
Scanner = Literal["hayward", "modelaudit"]
PickleScanner = Literal["picklescan", "modelaudit"]

DEFAULT_POLICY = Path(__file__).with_name("default_policy.yaml")


class AcceptedAdvisory(Frozen):
    """Somebody's answer to one advisory about one version of a package, until a day."""

    id: Text = Field(description="an id or alias: GHSA-…, CVE-…, PYSEC-…")
    package: Text
    version: Text = Field(description="the installed version that was judged")
    reason: Text
    approver: Text
    expires: Day = Field(description="the last day on which it holds, in UTC")


class AdvisoryPolicy(Frozen):
    """What a registry asks of the environment that loads its models."""

    required: bool = Field(default=False, description="Refuse without a snapshot, or with a stale")
    max_age_days: int = Field(default=30, ge=0, description="Oldest snapshot that counts")
    fail_on: Literal["none", "low", "medium", "high", "critical"] = Field(
        default="high",
        description="Lowest severity that refuses; an unknown one refuses too; none: never",
    )
    accepted: tuple[AcceptedAdvisory, ...] = Field(
        default=(), description="Advisories that somebody answers for, until a day"
    )


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
    publishers: dict[str, Publisher] = Field(
        default={}, description="Whose signature counts, and how each signer is known"
    )
    second_opinion: tuple[Scanner, ...] = Field(
        default=(), description="Public scanners to ask too; one that cannot run refuses"
    )
    second_opinion_blocks: bool = Field(
        default=False, description="Refuse what they call critical or high, instead of warning"
    )
    second_opinion_timeout_s: int = Field(
        default=3600, gt=0, description="Seconds that each scanner may take"
    )
    second_opinion_memory_mb: int = Field(
        default=32 * 1024, gt=0, description="MiB of address space that each scanner may have"
    )
    pickle: Literal["refuse", "depickle"] = Field(
        default="refuse",
        description="depickle: PyTorch pickles may be converted at ingest (convert: depickle in "
        "models.yaml); in a model folder they are refused whatever this says",
    )
    pickle_scanners: tuple[PickleScanner, ...] = Field(
        default=("picklescan",),
        description="Who must find nothing before a pickle is converted; one that cannot run "
        "refuses",
    )
    require_chat_template: bool = Field(
        default=False, description="Refuse a model that brings no chat template"
    )
    max_json_bytes: int = Field(
        default=128 * 1024 * 1024, gt=0, description="Largest JSON file that is read"
    )
    advisories: AdvisoryPolicy = Field(
        default=AdvisoryPolicy(),
        description="Known vulnerabilities of the environment that loads the models; judged by "
        "`weighbridge advisories check` and `doctor`, not by verify",
    )


def load_policy(path: Path) -> VerificationPolicy:
    """Read a policy file; raises WrongKindOfPath, or ConfigError naming the wrong key."""
    policy = parse_config(path, VerificationPolicy, load_yaml(path))
    return policy.model_copy(update={"publishers": with_trust_roots(policy.publishers, path)})
