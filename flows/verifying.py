"""`weighbridge verify FOLDER`: judge any folder of weights, outside a registry."""

from __future__ import annotations

from pathlib import Path

from pipelines.code_digest import PROJECT
from pipelines.models_file import DeclaredUse, load_yaml, parse_config
from pipelines.records import VerificationRecord
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder

DEFAULT_POLICY = PROJECT / "pipelines" / "verification" / "default_policy.yaml"


def judge(folder: Path, manifest: Path | None, use: str, policy: Path | None) -> VerificationRecord:
    """Judge `folder` for a declared use: 'commercial', 'research', or a YAML file that says more.

    Raises WrongKindOfPath for what is no folder, ConfigError for a wrong manifest, use or policy.
    """
    rules = policy or DEFAULT_POLICY
    declared = (
        DeclaredUse.model_validate({"purpose": use})
        if use in ("commercial", "research")
        else parse_config(Path(use), DeclaredUse, load_yaml(Path(use)))
    )
    parsed = parse_config(rules, VerificationPolicy, load_yaml(rules))
    return verify_folder(folder, declared, parsed, manifest)
