"""`weighbridge verify`: judge any folder of weights, or prove a model of the registry again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from pipelines.adapters import read_adapter_config
from pipelines.canonical import Frozen, record_bytes, sha256_bytes, sha256_file
from pipelines.code_digest import check_code
from pipelines.digest import check_digest
from pipelines.errors import (
    CommandFailed,
    ConfigError,
    DigestMismatch,
    Misuse,
    NotARegistry,
    NotJudged,
    NotVerified,
    UnknownName,
    WrongKindOfPath,
    is_disk_full,
)
from pipelines.models_file import (
    DeclaredUse,
    ModelsFile,
    entry,
    load_models,
    load_yaml,
    parse_config,
)
from pipelines.records import Finding, TrainingRecord, VerificationRecord, read_record
from pipelines.settings import Settings, load_settings
from pipelines.store.integrity import check_outputs, locked_outputs
from pipelines.store.registry import Layout
from pipelines.store.workspace import Workspace, open_workspace
from pipelines.verification.findings import printable
from pipelines.verification.passport import RECORD, write_verification
from pipelines.verification.policy import DEFAULT_POLICY, load_policy
from pipelines.verification.waivers import load_waivers
from pipelines.verify import VerifyConfig, against_base, judge_folder, verify

Stored = Literal["none", "same", "differs"]
WAIVERS = Path("policy") / "waivers"


class FolderOptions(Frozen):
    """What may be said about a folder that no registry describes."""

    manifest: Path | None = None
    use: str | None = None
    policy: Path | None = None
    waivers: Path | None = None
    base: Path | None = None
    out: Path | None = None

    def given(self) -> list[str]:
        """Options that only a folder takes."""
        names = ("manifest", "use", "policy", "waivers", "base")
        return [f"--{name}" for name in names if getattr(self, name) is not None]


class Verified(Frozen):
    """A record, what it is about, and whether the registry's own record says the same.

    `lineage` are findings about weights trained here, beside the base that they were trained from;
    they are no part of the record, which speaks of one set of weights.
    """

    record: VerificationRecord
    taken: str
    stored: Stored | None = None
    lineage: tuple[Finding, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether neither the record nor the comparison with the base refuses."""
        return self.record.passed and all(f.severity != "refusal" for f in self.lineage)


def judge_or_refuse(target: str, options: FolderOptions, registry: Path | None = None) -> Verified:
    """As `judge`, for the command line, where only a pass is exit 0 and all else is a refusal.

    Raises NotJudged for a path or an option that cannot be used, with what `judge` says of it.
    """
    try:
        return judge(target, options, registry)
    except Misuse as error:
        raise NotJudged(target, error) from error
    except OSError as error:
        if is_disk_full(error):
            raise
        raise NotJudged(target, error) from error


def judge(target: str, options: FolderOptions, registry: Path | None = None) -> Verified:
    """Judge a folder, or the model of the registry that is called `target`.

    A folder that exists is taken before a name. Raises WrongKindOfPath for what is neither,
    ConfigError for a wrong manifest, use, policy or waiver, UnknownName with the names that the
    registry has.
    """
    path = Path(target)
    if path.is_dir() or "/" in target or path.exists():
        return judge_path(path, options)
    try:
        settings = load_settings(registry)
    except NotARegistry as error:
        raise WrongKindOfPath(path, "a folder of weights") from error
    if wrong := options.given():
        fact = f"{', '.join(wrong)} belongs to a folder; {target} is a model of the registry"
        remedy = "Its pinned manifest, declared use, policy and waivers are the registry's own."
        raise ConfigError("verify", fact, remedy)
    return prove_again(settings, target, options.out)


def judge_path(path: Path, options: FolderOptions) -> Verified:
    """Judge a folder; writes the passport into `options.out`, which must be new."""
    _check_new(options.out)
    policy = load_policy(options.policy or DEFAULT_POLICY)
    config = VerifyConfig(
        name=printable(path.resolve().name),
        use=_declared_use(options.use or "commercial"),
        policy=policy,
        policy_sha256=sha256_bytes(record_bytes(policy)),
        code_digest="",
        waivers=load_waivers(options.waivers) if options.waivers else (),
        base=options.base,
    )
    judged = judge_folder(path, config, options.manifest)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_verification(judged, options.out)
    return Verified(record=judged.record, taken=f"the folder {path}")


def prove_again(settings: Settings, name: str, out: Path | None = None) -> Verified:
    """Verify a model of the registry from its bytes, and compare with the record that it holds.

    Works in a disposable clone of what origin holds; nothing is published. Raises DigestMismatch
    when the store has other bytes than dvc.lock names, CodeDiffers when other code is installed.
    """
    _check_new(out)
    with open_workspace(settings) as workspace:
        layout, models = Layout(workspace.root), load_models(workspace.root)
        if name not in models.weights():
            kind = "model or tuning"
            raise UnknownName(workspace.root / "models.yaml", kind, name, models.weights())
        code_digest = check_code(workspace.root, "verify")
        config = registry_config(workspace.root, models, name, code_digest)
        _restore(workspace, name)
        with tempfile.TemporaryDirectory() as scratch:
            target = out or Path(scratch) / "verification"
            target.parent.mkdir(parents=True, exist_ok=True)
            record = verify(config, layout.weights(name), layout.origin(name), target)
            stored = _compare(layout.verification(name) / RECORD, target / RECORD)
        return Verified(
            record=record,
            taken=f"the model {name} of {settings.origin}",
            stored=stored,
            lineage=_lineage(workspace, name),
        )


def _lineage(workspace: Workspace, name: str) -> tuple[Finding, ...]:
    """What training changed, against what its adapter says that it trained.

    Both models' bytes are compared with their records first; raises DigestMismatch.
    """
    layout = Layout(workspace.root)
    path = layout.origin(name) / "training.json"
    if not path.is_file():
        return ()
    training = read_record(path, TrainingRecord)
    _restore(workspace, training.base)
    check_digest(layout.weights(training.base), training.base_digest)
    config = read_adapter_config(layout.origin(name) / "adapter")
    targets = config.get("target_modules")
    trained = frozenset(targets) if isinstance(targets, list) else None
    return tuple(against_base(layout.weights(training.base), layout.weights(name), trained))


def registry_config(root: Path, models: ModelsFile, name: str, code_digest: str) -> VerifyConfig:
    """What the registry at `root` says about verifying `name`: use, policy, waivers."""
    policy = root / "policy" / "verification.yaml"
    return VerifyConfig(
        name=name,
        use=entry(root, "declared use", models.uses, name),
        policy=load_policy(policy),
        policy_sha256=sha256_file(policy),
        code_digest=code_digest,
        waivers=load_waivers(root / WAIVERS),
    )


def _restore(workspace: Workspace, name: str) -> None:
    """Weights, origin and the stored verification, as far as dvc.lock has them."""
    locked = locked_outputs(workspace.root)
    weights, evidence = f"models/{name}", f"evidence/{name}/origin"
    if weights not in locked or evidence not in locked:
        raise NotVerified(name, ["nothing was ingested under this name yet"])
    stored = f"evidence/{name}/verification"
    fact = "others, or none"
    try:
        workspace.restore(weights, evidence, *([stored] if stored in locked else []))
    except CommandFailed as error:
        raise DigestMismatch(workspace.root / weights, "the bytes in dvc.lock", fact) from error
    for path in (weights, evidence):  # what nobody has is passed over by dvc
        if not (workspace.root / path).is_dir():
            raise DigestMismatch(workspace.root / path, "the bytes in dvc.lock", fact)
    check_outputs(workspace.root, evidence)


def _compare(stored: Path, made: Path) -> Stored:
    if not stored.is_file():
        return "none"
    return "same" if stored.read_bytes() == made.read_bytes() else "differs"


def _check_new(out: Path | None) -> None:
    if out is not None and out.exists():
        raise WrongKindOfPath(out, "a folder that does not exist yet")


def _declared_use(use: str) -> DeclaredUse:
    if use in ("commercial", "research"):
        return DeclaredUse.model_validate({"purpose": use})
    return parse_config(Path(use), DeclaredUse, load_yaml(Path(use)))
