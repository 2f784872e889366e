"""One real Prefect server for all tests of the flows, and registries that are quick to run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.deploy import deploy
from flows.server import PrefectServer, clean_environment, running_server
from pipelines.settings import Settings, load_settings
from pipelines.store import git
from pipelines.store.registry import InitConfig, create_registry

TOY_STAGES = Path(__file__).with_name("toy_stages.py")
TRAITS = {"verify": "unverified", "evaluate": "broken", "gate": "worse"}


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server with a home of its own, on a free port of the loopback interface."""
    home = tmp_path_factory.mktemp("prefect")
    environ = clean_environment(home, drop=("PREFECT_", "WEIGHBRIDGE_"))
    environ |= {
        # Look for work and for schedules more often than a production server needs to.
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    with running_server(home, environ=environ) as server:
        yield server


@pytest.fixture(scope="session")
def deployments(prefect_server: PrefectServer) -> tuple[str, ...]:
    """What infra/prefect.yaml deploys to that server, as 'flow/deployment'."""
    return deploy(prefect_server.environ)


@pytest.fixture
def connected(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """Flows that are called in this process report to the server."""
    with prefect_server.connected():
        yield prefect_server


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose release graph is the real one and whose stages take no time."""
    base = tmp_path_factory.mktemp("toy-registry")
    create_registry(
        InitConfig(
            registry=base / "registry", origin=base / "origin.git", remote=str(base / "remote")
        ),
        _make_toy,
    )
    return base


@pytest.fixture
def toy(toy_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of that registry for one test; the flows find it as a worker does."""
    return copied(toy_template, tmp_path / "toy", monkeypatch)


def copied(template: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A registry copied with its origin and remote, named by the environment."""
    shutil.copytree(template, base, symlinks=True)
    for file in ("registry/.git/config", "registry/.dvc/config"):
        path = base / file
        path.write_text(path.read_text().replace(str(template), str(base)))
    _publish(base / "registry", lambda root: None)
    monkeypatch.setenv("WEIGHBRIDGE_REGISTRY", str(base / "registry"))
    monkeypatch.delenv("WEIGHBRIDGE_HOME", raising=False)
    return load_settings()


def behave(settings: Settings, trait: str, *names: str) -> None:
    """Say what models are like: behave(settings, "worse", "bad"); see toy_stages."""
    assert settings.work_tree is not None
    _publish(settings.work_tree, lambda root: (root / "toy" / trait).write_text("\n".join(names)))


def _make_toy(root: Path) -> None:
    graph = (root / "dvc.yaml").read_text()
    own = f"cmd: exec {sys.executable} {TOY_STAGES}"
    graph = graph.replace("cmd: exec weighbridge stage", own)
    for stage, trait in TRAITS.items():
        graph = graph.replace(f"- code/{stage}.json", f"- code/{stage}.json\n        - toy/{trait}")
    (root / "dvc.yaml").write_text(graph)
    for folder in ("toy", "datasets/mail", "recipes", "suites/smoke"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for trait in TRAITS.values():
        (root / "toy" / trait).touch()
    (root / "suites/smoke/suite.yaml").write_text("{}\n")
    (root / "datasets/mail/train.jsonl").write_text("{}\n")
    (root / "recipes/lora.yaml").write_text("{}\n")


def _publish(tree: Path, edit: Callable[[Path], object]) -> None:
    """Commit an edit of the registry's work tree and push it, as a person would."""
    edit(tree)
    git.commit_all(tree, "Edit")
    git.git(tree, "pull", "--quiet", "--rebase", "origin", "main")
    assert git.push(tree)
