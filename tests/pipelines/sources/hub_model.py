"""A small model on the test Hub, and fetching it as an ingest does."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.references import Reference, parse_reference
from pipelines.sources import dispatch
from pipelines.sources.dispatch import Fetched
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore
from tests.hub_server import COMMIT, HubServer, Repository, hub_server

NAME = "acme/tiny"
PINNED = parse_reference(f"hf://{NAME}@{COMMIT}")
WEIGHTS = random.Random(7).randbytes(3 * 1024 * 1024 + 5)  # a large file: it is resumed
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"
LICENCE = b"Apache License, Version 2.0 ..."
CONFIG = b'{"model_type": "llama"}'
TAKEN = {"model.safetensors": WEIGHTS, "config.json": CONFIG}

_CHILD = """
import sys
from pathlib import Path
from tests.pipelines.sources.hub_model import fetch
fetch(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The test Hub with the model on it, named by HF_ENDPOINT; nobody waits between retries."""
    with hub_server() as server:
        server.repositories[NAME] = Repository(
            files={
                "model.safetensors": WEIGHTS,
                "config.json": CONFIG,
                "README.md": CARD,
                "LICENSE": LICENCE,
                "pytorch_model.bin": b"a pickle",
                ".gitattributes": b"*.safetensors filter=lfs\n",
            },
            large=frozenset({"model.safetensors"}),
        )
        # The test run is offline as a whole; this server is on the loopback.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr("pipelines.store.resuming._FIRST_PAUSE_S", 0.001)
        no_wait = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
        monkeypatch.setattr("huggingface_hub.utils._http.time", no_wait)
        yield server


def fetch(
    home: Path,
    folder: Path,
    reference: Reference = PINNED,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> Fetched:
    """Fetch into the new folders `folder`/model and `folder`/origin."""
    (folder / "model").mkdir(parents=True)
    wanted = Wanted(reference=reference, include=include, exclude=exclude)
    return dispatch.fetch(wanted, ObjectStore(home), folder / "model", folder / "origin")


def resolve(home: Path, reference: str) -> Reference:
    """What the reference means now."""
    return dispatch.resolve(Wanted(reference=parse_reference(reference)), ObjectStore(home))


def contents(folder: Path) -> dict[str, bytes]:
    """The model's files as they lie in the folder that `fetch` was given."""
    model = folder / "model"
    files = [path for path in model.rglob("*") if path.is_file()]
    return {path.relative_to(model).as_posix(): path.read_bytes() for path in files}


def fetching_child(home: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A process of its own that fetches the model, to be killed or waited for."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {key: value for key, value in os.environ.items() if key not in offline}
    return subprocess.Popen([sys.executable, "-c", _CHILD, str(home), str(folder)], env=environment)


def partial_bytes(home: Path) -> int:
    """How much of unfinished files lies in the store."""
    found = (home / "downloads/incoming").glob("*.part")
    return sum(path.stat().st_size for path in found)
