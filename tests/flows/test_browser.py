"""A data team's day: fill a form in a browser, have a worker run it, read what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from analyst import (
    browser_page,
    choose,
    end_of_run,
    field,
    open_artifact,
    open_form,
    submit,
    write,
    write_list,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from released_model import release_weights

from flows.server import PrefectServer, running_worker
from pipelines.batch.layout import MANIFEST
from pipelines.batch.manifest import load_manifest
from pipelines.batch.store import open_store
from pipelines.settings import Settings, load_settings
from pipelines.store.registry import InitConfig, create_registry

RUN_TIMEOUT_S = 480.0  # starting a process, fetching weights and starting the engine included
DOCUMENTS = {
    "mit.txt": "Permission is hereby granted, free of charge, to any person obtaining a copy.",
    "gpl.txt": "You must convey the source of a modified version under this same License.",
    "own.txt": "This software may not be copied or distributed without the owner's permission.",
}


@pytest.fixture(scope="module")
def registry(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A registry whose release line `triage` has SmolLM2 in production."""
    base = tmp_path_factory.mktemp("company")
    tree = create_registry(
        InitConfig(
            registry=base / "registry", origin=base / "origin.git", remote=str(base / "remote")
        )
    )
    settings = load_settings(tree, {})
    release_weights(settings, smollm2, "smollm2", "triage")
    return settings


@pytest.fixture(scope="module")
def worker(
    prefect_server: PrefectServer, deployments: tuple[str, ...], registry: Settings
) -> Iterator[None]:
    """A process worker that works for that registry."""
    environ = {"WEIGHBRIDGE_REGISTRY": str(registry.work_tree)}
    with running_worker(prefect_server, environ=environ):
        yield


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.usefixtures("worker")
def test_analyst_asks_documents_and_reads_the_answers(
    prefect_server: PrefectServer, registry: Settings, corpus: Path, tmp_path: Path
) -> None:
    with browser_page(prefect_server.url, tmp_path) as page:
        open_form(page, "ask-documents")
        write(page, "Folder or file", str(corpus))
        choose(page, "Classification", "public")
        write(page, "What to ask", "Which kind of licence is this?")
        write_list(page, "Labels", ["permissive", "copyleft", "proprietary"])
        write(page, "Model", "triage@production")
        write(page, "Job name", "licences")
        submit(page)
        name = f"ask triage@production about {corpus}"
        assert end_of_run(page, name, RUN_TIMEOUT_S) == "Completed"
        open_artifact(page, name, "3 of 3 rows answered")
        output = registry.jobs / "licences"
        page.get_by_text(str(output)).first.wait_for()
    manifest = load_manifest(open_store(str(output)))
    assert manifest is not None, f"no {MANIFEST} in {output}"
    assert (manifest.documents, manifest.rows, manifest.rows_ok) == (3, 3, 3)
    assert manifest.model == "triage@production"


def test_form_sends_the_answer_that_was_chosen(
    prefect_server: PrefectServer,
    deployments: tuple[str, ...],
    connected: PrefectServer,
    tmp_path: Path,
) -> None:
    with browser_page(connected.url, tmp_path) as page:
        open_form(page, "ask-documents")
        write(page, "Folder or file", "/nowhere")
        choose(page, "Classification", "restricted")
        write(page, "What to ask", "What is it about?")
        field(page, "Answer").get_by_text("Free text", exact=True).click()
        write(page, "Model", "triage@staging")
        submit(page)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    (sent,) = [
        run.parameters
        for run in runs
        if run.parameters.get("documents", {}).get("path") == "/nowhere"
    ]
    assert sent["question"]["answer"] == {"words": 50}
    assert sent["documents"]["classification"] == "restricted"


@pytest.mark.usefixtures("worker", "connected")
def test_run_that_is_refused_says_why() -> None:
    run = run_deployment(
        "promote/promote", parameters={"candidate": "smollm2"}, timeout=RUN_TIMEOUT_S
    )
    assert isinstance(run, FlowRun)
    assert run.state is not None
    assert run.state.is_failed()
    assert "smollm2 has no verdict" in (run.state.message or "")
