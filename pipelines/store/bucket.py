"""A tree's S3 remote, and DVC's layout of objects, which is the same in a cache and in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.store.remote import S3Location, md5_of, parse_s3

STREAMS = 8  # files at a time, and questions
_OUR_OPTIONS = {"url", "endpointurl", "profile", "region", "jobs", "verify"}


def bucket_location(tree: Path, home: Path) -> S3Location | None:
    """The tree's S3 remote; None when only DVC can move its objects.

    That is a remote that is no bucket or has settings that are not known here, and a tree whose
    cache is not the one below `home`.
    """
    from dvc.config import Config, ConfigError

    try:
        config = Config(str(tree / ".dvc"), validate=False)  # with defaults it says less
    except ConfigError:
        return None
    options = config["remote"].get(config["core"].get("remote", ""), {})
    cache = Path(config["cache"].get("dir") or tree / ".dvc" / "cache")
    bucket = options.get("url", "").startswith("s3://") and options.keys() <= _OUR_OPTIONS
    if not bucket or cache.resolve() != (home / "cache").resolve():
        return None
    found = parse_s3(options["url"], options.get("endpointurl", ""))
    access = {name: options.get(name, "") for name in ("profile", "region")}
    return found.model_copy(update=access)


def object_path(objects: Path, address: str) -> str:
    """Where the object with this address lies below the folder `objects`, or would."""
    return f"{objects}/{address[:2]}/{address[2:]}"


def read_object(objects: Path, address: str) -> bytes:
    """A small object's bytes; none when it is not there."""
    try:
        return Path(object_path(objects, address)).read_bytes()
    except FileNotFoundError:
        return b""


def members_of(address: str, data: bytes | None) -> list[str] | None:
    """Addresses of a folder's files by its listing (None: damaged); a file stands for itself."""
    if data is None:
        return [address]
    if md5_of(data) != address.removesuffix(".dir"):
        return None
    return [str(entry["md5"]) for entry in json.loads(data)]
