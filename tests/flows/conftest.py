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
from pipelines.store.registry import InitConfig, create_registry

TOY_STAGES = Path(__file__).with_name("toy_stages.py")


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
    base = tmp_path / "toy"
    shutil.copytree(toy_template, base)
    for file in (base / "registry/.git/config", base / "registry/.dvc/config"):
        file.write_text(file.read_text().replace(str(toy_template), str(base)))
    _publish(base / "registry", lambda root: None)
    monkeypatch.setenv("WEIGHBRIDGE_REGISTRY", str(base / "registry"))
    monkeypatch.delenv("WEIGHBRIDGE_HOME", raising=False)
    return load_settings()


@pytest.fixture
def behave(toy: Settings) -> Callable[..., None]:
    """Say in toy.yaml what models are like: behave(worse=["bad"])."""

    def apply(**lists: list[str]) -> None:
        assert toy.work_tree is not None
        text = "".join(f"{key}: [{', '.join(names)}]\n" for key, names in lists.items())
        _publish(toy.work_tree, lambda root: (root / "toy.yaml").write_text(text))

    return apply


def _make_toy(root: Path) -> None:
    graph = (root / "dvc.yaml").read_text()
    own = f"cmd: exec {sys.executable} {TOY_STAGES}"
    graph = graph.replace("cmd: exec weighbridge stage", own)
    for stage in ("ingest", "finetune", "verify", "evaluate", "gate"):
        graph = graph.replace(f"- code/{stage}.json", f"- code/{stage}.json\n        - toy.yaml")
    (root / "dvc.yaml").write_text(graph)
    (root / "toy.yaml").write_text("{}\n")
    for folder in ("datasets/mail", "recipes"):
        (root / folder).mkdir(parents=True)
    (root / "datasets/mail/train.jsonl").write_text("{}\n")
    (root / "recipes/lora.yaml").write_text("{}\n")


def _publish(tree: Path, edit: Callable[[Path], object]) -> None:
    """Commit an edit of the registry's work tree and push it, as a person would."""
    from pipelines.store import git

    git.git(tree, "pull", "--quiet", "--rebase", "origin", "main")
    edit(tree)
    git.commit_all(tree, "Edit")
    assert git.push(tree)
