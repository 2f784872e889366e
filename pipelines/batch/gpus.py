"""GPUs: which there are, and which engine gets which."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.batch.settings import EngineSettings
from pipelines.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(devices: Path = Path("/dev")) -> tuple[str, ...]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Those that the variable names; where it is not set, one per /dev/nvidia0, /dev/nvidia1, …
    """
    named = os.environ.get(VISIBLE)
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip() not in ("", "-1"))
    return tuple(str(i) for i, _ in enumerate(devices.glob("nvidia[0-9]*")))


def divide_gpus(settings: EngineSettings, gpus: tuple[str, ...]) -> list[dict[str, str]]:
    """For each engine of a job the environment that shows it its own GPUs.

    A single engine on one device is shown what there is. Raises ConfigError when more GPUs are
    asked for than are there.
    """
    each, engines = settings.tensor_parallel, settings.data_parallel
    if each * engines == 1:
        return [{}]
    if each * engines > len(gpus):
        key = "tensor_parallel" if engines == 1 else "data_parallel"
        raise ConfigError(
            f"engine.{key}",
            f"{engines} engines of {each} GPUs each need {each * engines}, and this machine has "
            f"{len(gpus)}",
            "Lower engine.tensor_parallel or engine.data_parallel, or use a machine with more.",
        )
    parts = [gpus[i * each : (i + 1) * each] for i in range(engines)]
    return [{VISIBLE: ",".join(part)} for part in parts]
