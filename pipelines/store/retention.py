"""What a plan of what this machine's store keeps and lets go consists of, and its settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.canonical import Frozen
from pipelines.errors import ConfigError

DAY_S = 24 * 3600.0
# A checkpoint may stand for days of an accelerator: a killed training is given time to go on.
TRAINING_GRACE_S = 14 * DAY_S
REMOVING = ".weighbridge-removing"  # suffix of an object on its way out
_SIZES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
_PERIODS_S = {"m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}

Kind = Literal["object", "run cache", "partial download", "package", "listing", "clone", "training"]


class RetentionConfig(Frozen):
    """How much may go. Times in seconds, sizes in bytes."""

    older_than_s: float = Field(default=DAY_S, ge=0)
    budget_bytes: int | None = Field(default=None, ge=0)
    not_in_remote: bool = False


class Item(Frozen):
    """Something on the disk that may go. `last_used` is in seconds since 1970."""

    kind: Kind
    path: Path
    what: str
    why: str
    size_bytes: int
    last_used: float
    address: str = ""
    in_remote: bool = True


class Kept(Frozen):
    """What stays for one reason."""

    why: str
    count: int
    size_bytes: int


class Plan(Frozen):
    """What stays and what may go; `going` is what `remove` takes, oldest first."""

    kept: tuple[Kept, ...]
    going: tuple[Item, ...]
    within_budget: tuple[Item, ...]
    not_in_remote: tuple[Item, ...]
    total_bytes: int
    budget_bytes: int | None

    @property
    def going_bytes(self) -> int:
        """What removing `going` gives back."""
        return sum(item.size_bytes for item in self.going)

    @property
    def over_budget_bytes(self) -> int:
        """How much the store stays over its budget because nothing else may go."""
        if self.budget_bytes is None:
            return 0
        return max(0, self.total_bytes - self.going_bytes - self.budget_bytes)


class Needs(Frozen):
    """What the registry says: needed addresses with the reason, names of others, the remote."""

    needed: dict[str, str]
    names: dict[str, str]
    remote_sizes: dict[str, int]


def parse_size(text: str) -> int:
    """'200GB' or '1.5 TiB' in bytes; raises ConfigError, also without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", text.strip().lower())
    if match is None:
        raise ConfigError("--budget", f"{text!r} is not a size", "Write 200GB, 1.5TB or 500GiB.")
    return int(float(match[1]) * _SIZES[match[2]])


def parse_period(text: str) -> float:
    """'12h', '1d' or '2w' in seconds; raises ConfigError."""
    match = re.fullmatch(r"(\d+)\s*([mhdw])", text.strip().lower())
    if match is None:
        remedy = "Write 30m, 12h, 1d or 2w."
        raise ConfigError("--older-than", f"{text!r} is not a period", remedy)
    return int(match[1]) * _PERIODS_S[match[2]]
