"""A registry's layout, and how one is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pipelines.canonical import Frozen
from pipelines.code_digest import ENTRY_MODULES, PROJECT, write_code_file
from pipelines.errors import ConfigError, WrongKindOfPath
from pipelines.store import git
from pipelines.store.dvc import CACHE_TYPE, S3_JOBS, Dvc
from pipelines.store.remote import check_s3, parse_s3

STAGES = tuple(ENTRY_MODULES)
_DVCIGNORE = """\
# Run times and signatures lie beside records and are never part of a digest.
*.run.json
*.sig.json
"""
_GITIGNORE = "/.weighbridge/\n"


class InitConfig(Frozen):
    """Where a new registry and its two counterparts go.

    `remote` is a folder or s3://bucket/prefix; `endpoint` the URL of an S3 store that is not AWS,
    by default what AWS_ENDPOINT_URL or the AWS profile says.
    """

    registry: Path
    origin: Path
    remote: str
    endpoint: str = ""


class Layout:
    """Paths inside one registry work tree."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def weights(self, name: str) -> Path:
        """The weights of a model and nothing else."""
        return self.root / "models" / name

    def evidence(self, name: str) -> Path:
        """Everything that is known about a model."""
        return self.root / "evidence" / name

    def origin(self, name: str) -> Path:
        """What ingest or finetune stated."""
        return self.evidence(name) / "origin"

    def verification(self, name: str) -> Path:
        """What verify stated."""
        return self.evidence(name) / "verification"

    def evaluation(self, name: str, suite: str) -> Path:
        """What one evaluation stated."""
        return self.evidence(name) / "evaluations" / suite

    def verdict(self, name: str) -> Path:
        """What the gate decided."""
        return self.evidence(name) / "verdict"

    def shadow(self, name: str) -> Path:
        """What a shadow run stated; plain files in git, as they are no stage's output."""
        return self.evidence(name) / "shadow"

    def manifest_signature(self, name: str) -> Path:
        """The signature over the weights' manifest."""
        return self.evidence(name) / "manifest.sig.json"

    def release(self, line: str, version: str) -> Path:
        """The record of one release."""
        return self.root / "releases" / line / f"{version}.json"


def create_registry(config: InitConfig, fill: Callable[[Path], None] | None = None) -> Path:
    """Make a registry with its bare origin and DVC remote; raises WrongKindOfPath when in the way.

    `fill` adds files before the first commit. Everything is built under a temporary name and
    renamed at the end, so that an interrupted `init` leaves no half registry. An S3 remote is tried
    first: BucketMissing, KeysRefused and RemoteUnreachable come before anything is made.
    """
    remote = _remote_settings(config)
    for path in (config.registry, config.origin):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise WrongKindOfPath(path, "an empty or new folder")
    config.registry.parent.mkdir(parents=True, exist_ok=True)
    building = config.registry.with_name(f".{config.registry.name}.partial")
    if building.exists():
        shutil.rmtree(building)
    building.mkdir()
    write_files(building)
    _create_signing_key(building)
    if fill is not None:
        fill(building)
    git.git(building, "init", "--quiet", "--initial-branch=main")
    _configure_dvc(building, remote)
    git.commit_all(building, "Make the registry")
    if config.origin.exists():
        config.origin.rmdir()
    git.git(building, "clone", "--quiet", "--bare", str(building), str(config.origin))
    git.git(building, "remote", "add", "origin", str(config.origin.absolute()))
    git.git(building, "fetch", "--quiet", "origin")
    git.git(building, "branch", "--quiet", "--set-upstream-to=origin/main", "main")
    if config.registry.exists():
        config.registry.rmdir()
    building.rename(config.registry)
    return config.registry


def write_files(root: Path) -> None:
    """All that a new registry holds in git, but for its key; `root` is an empty folder."""
    for name in ("dvc.yaml", "models.yaml"):
        shutil.copyfile(PROJECT / name, root / name)
    (root / ".gitignore").write_text(_GITIGNORE, encoding="utf-8")
    (root / ".dvcignore").write_text(_DVCIGNORE, encoding="utf-8")
    shutil.copytree(PROJECT / "evals" / "suites", root / "suites")
    gates = root / "policy" / "gates"
    gates.mkdir(parents=True)
    for policy in sorted((PROJECT / "evals" / "policy").glob("*.yaml")):
        shutil.copyfile(policy, gates / policy.name)
    default = PROJECT / "pipelines" / "verification" / "default_policy.yaml"
    shutil.copyfile(default, root / "policy" / "verification.yaml")
    destinations = PROJECT / "pipelines" / "batch" / "default_destinations.yaml"
    shutil.copyfile(destinations, root / "policy" / "destinations.yaml")
    (root / "policy" / "allowed_signers").write_text("", encoding="utf-8")
    waivers = root / "policy" / "waivers"  # a dependency of verify, so never empty in git
    waivers.mkdir()
    shutil.copyfile(default.with_name("waivers.md"), waivers / "README.md")
    costs = root / "costs"  # a dependency of gate
    costs.mkdir()
    shutil.copyfile(PROJECT / "evals" / "costs.md", costs / "README.md")
    for stage in STAGES:
        write_code_file(root, stage)


def _create_signing_key(root: Path) -> None:
    from pipelines.signing import create_key

    private = root / ".weighbridge" / "signing.key"
    private.parent.mkdir(mode=0o700)
    create_key(private, root / "policy" / "signing.pub")


def _remote_settings(config: InitConfig) -> dict[str, str]:
    """The remote's lines in DVC's configuration, which git holds: where it is, and never keys."""
    if not config.remote.startswith("s3://"):
        if config.endpoint:
            remedy = "Leave --endpoint out, or name a remote s3://bucket/prefix."
            raise ConfigError(config.endpoint, "an endpoint belongs to an s3:// remote", remedy)
        where = config.remote if "://" in config.remote else str(Path(config.remote).absolute())
        return {"url": where}
    location = check_s3(parse_s3(config.remote, config.endpoint))
    endpoint = {"endpointurl": location.endpoint} if location.endpoint else {}
    return {"url": location.url, **endpoint, "jobs": str(S3_JOBS)}


def _configure_dvc(root: Path, remote: dict[str, str]) -> None:
    Dvc(root)("init", "--quiet")
    lines = "".join(f"    {key} = {value}\n" for key, value in remote.items())
    (root / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = store\n    autostage = false\n"
        f'[cache]\n    type = "{CACHE_TYPE}"\n'
        f"['remote \"store\"']\n{lines}    verify = true\n",
        encoding="utf-8",
    )
    (root / ".dvc" / "config.local").write_text(
        "[cache]\n    dir = ../.weighbridge/cache\n", encoding="utf-8"
    )
