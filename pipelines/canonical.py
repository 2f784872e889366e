"""One byte form for everything that is hashed or compared."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

READ_SIZE_BYTES = 256 * 1024  # a reused 256 KiB buffer stays in cache; larger reads are slower


class Frozen(BaseModel):
    """Base of every config and record: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no white space and no NaN or infinity.

    Raises ValueError on a float that JSON cannot carry: a record must not hold one.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def record_bytes(record: BaseModel) -> bytes:
    """The canonical bytes of a record, ending with a newline as text files do."""
    return canonical_json(record.model_dump(mode="json")) + b"\n"


def sha256_bytes(data: bytes) -> str:
    """sha256 of bytes, as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, read once through a bounded buffer."""
    digest = hashlib.sha256()
    buffer = bytearray(READ_SIZE_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it there when the block succeeds.

    A process that is killed leaves the temporary file or folder, never half a target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` under its final name in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_record(path: Path, record: BaseModel) -> str:
    """Write a record canonically and return the sha256 of its bytes."""
    data = record_bytes(record)
    write_bytes(path, data)
    return sha256_bytes(data)
