"""Small real models that several tests of this package read; nobody may change them in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_models import make_tiny_llama, write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of 35,000 parameters, its tokenizer and a licence."""
    import torch

    torch.set_num_threads(1)  # for models this small, threads only wait for each other
    folder = tmp_path_factory.mktemp("tiny-llama")
    make_tiny_llama(folder)
    (folder / "LICENSE").write_text("MIT License ...")
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a GGUF file."""
    folder = tmp_path_factory.mktemp("tiny-gguf")
    model = make_tiny_llama(folder / "model")
    write_tiny_gguf(folder / "tiny.gguf", model)
    return folder / "tiny.gguf"
