"""What the environment says, read once.

WEIGHBRIDGE_REGISTRY   work tree of a registry, or the URL of its git origin
WEIGHBRIDGE_HOME       folder for the shared DVC cache, clones, downloads and jobs; by default
                       `.weighbridge` in the registry's work tree
WEIGHBRIDGE_INSECURE_REGISTRIES  hosts of Ollama registries that are reached by plain HTTP
WEIGHBRIDGE_SIGNING_KEY  private key that signs manifests and releases; by default
                       `signing.key` in WEIGHBRIDGE_HOME
WEIGHBRIDGE_USD_PER_HOUR  what an hour of this machine costs, for the limits of batch jobs
                       (read by pipelines.batch.limits)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipelines.canonical import Frozen
from pipelines.errors import NotARegistry
from pipelines.store.git import git


class Settings(Frozen):
    """Where the registry is and where this machine keeps its working files."""

    origin: str
    home: Path
    work_tree: Path | None = None

    @property
    def cache(self) -> Path:
        """The DVC cache that all clones of this machine share."""
        return self.home / "cache"

    @property
    def clones(self) -> Path:
        """Where disposable clones are made; same file system as the cache, so links work."""
        return self.home / "clones"

    @property
    def downloads(self) -> Path:
        """Verified downloads, kept until `weighbridge gc`."""
        return self.home / "downloads"

    @property
    def jobs(self) -> Path:
        """Default place of batch jobs."""
        return self.home / "jobs"

    @property
    def signing_key(self) -> Path:
        """The private key of this registry, if this machine may sign."""
        return Path(os.environ.get("WEIGHBRIDGE_SIGNING_KEY") or self.home / "signing.key")


def is_registry(path: Path) -> bool:
    """Whether `path` is the work tree of a registry."""
    return (path / ".dvc").is_dir() and (path / "models.yaml").is_file()


def find_registry(start: Path) -> Path:
    """The registry that `start` is or lies in; raises NotARegistry."""
    for folder in (start.absolute(), *start.absolute().parents):
        if is_registry(folder):
            return folder
    raise NotARegistry(start)


def load_settings(
    registry: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings from an explicit registry, else WEIGHBRIDGE_REGISTRY, else the current folder."""
    environ = os.environ if environ is None else environ
    named = environ.get("WEIGHBRIDGE_REGISTRY", "")
    home = environ.get("WEIGHBRIDGE_HOME", "")
    if registry is None and named and not Path(named).is_dir() and home:
        return Settings(origin=named, home=Path(home).absolute())
    start = registry or (Path(named) if named else Path.cwd())
    if not start.is_dir():
        raise NotARegistry(start)
    tree = find_registry(start)
    origin = git(tree, "remote", "get-url", "origin").strip()
    return Settings(
        origin=origin,
        home=Path(home).absolute() if home else tree / ".weighbridge",
        work_tree=tree,
    )
