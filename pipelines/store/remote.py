"""The DVC remote itself: is it usable, and which objects does it hold.

Bytes are moved by `bucket_push`, `bucket_pull` and DVC. Here an S3 remote is tried before a
registry is made on it, and remotes are asked what can be restored from them. Credentials are read
by boto3 from the environment or from AWS profiles, and are never written anywhere.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from pipelines.canonical import Frozen
from pipelines.errors import (
    BucketMissing,
    ConfigError,
    KeysRefused,
    RemoteFailed,
    RemoteUnreachable,
)

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

OBJECTS = "files/md5"  # where DVC keeps objects, below cache and remote alike
_ADDRESS = re.compile(r"([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)")
_MISSING_BUCKET = {"NoSuchBucket"}
_MISSING_OBJECT = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {
    "401", "403", "AccessDenied", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidToken",
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip


class S3Location(Frozen):
    """s3://bucket/prefix, and how to reach it where that is not AWS itself."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    profile: str = ""
    region: str = ""

    @property
    def url(self) -> str:
        """As it is written in DVC's configuration."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The full key of a name below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name


def parse_s3(url: str, endpoint: str = "") -> S3Location:
    """Split s3://bucket/prefix; raises ConfigError, also for keys in the URL."""
    parts = urlsplit(url)
    if "@" in parts.netloc or ":" in parts.netloc or parts.query or parts.fragment:
        fact = "an S3 remote is a bucket and a prefix, without keys, port or query"
        # The URL may hold a secret: it is not repeated.
        remedy = "Write s3://bucket/prefix, and give keys in the environment or in an AWS profile."
        raise ConfigError("the remote", fact, remedy)
    if not parts.netloc:
        raise ConfigError(url, "an S3 remote needs a bucket", "Write s3://bucket/prefix.")
    if endpoint and urlsplit(endpoint).scheme not in ("http", "https"):
        remedy = "Write https://host or http://host:port."
        raise ConfigError(endpoint, "not the URL of an S3 endpoint", remedy)
    return S3Location(bucket=parts.netloc, prefix=parts.path.strip("/"), endpoint=endpoint)


def check_s3(location: S3Location) -> S3Location:
    """Put, read, list and delete a small object below the prefix; returns where it really was.

    The result names the endpoint that boto3 chose from the environment or the profile, unless it
    is AWS itself. Raises BucketMissing, KeysRefused or RemoteUnreachable, and leaves nothing.
    """
    with failures(location):
        client = s3_client(location)
        actual = client.meta.endpoint_url
        on_aws = (urlsplit(actual).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
        location = location.model_copy(update={"endpoint": "" if on_aws else actual})
    name = f"weighbridge-probe-{secrets.token_hex(8)}"
    key, data = location.key(name), name.encode()
    with failures(location):
        client.put_object(Bucket=location.bucket, Key=key, Body=data)
        try:
            read = client.get_object(Bucket=location.bucket, Key=key)["Body"].read()
            client.list_objects_v2(Bucket=location.bucket, Prefix=key, MaxKeys=1)
        finally:
            client.delete_object(Bucket=location.bucket, Key=key)
    if read != data:
        raise RemoteUnreachable(location.url, location.endpoint, "it gives other bytes than it got")
    return location


def s3_client(location: S3Location) -> S3Client:
    """A client that retries what S3 servers answer while they are busy (500, 503, resets)."""
    import boto3
    from botocore.config import Config

    session = boto3.session.Session(
        profile_name=location.profile or None, region_name=location.region or None
    )
    return session.client(
        "s3",
        endpoint_url=location.endpoint or None,
        config=Config(
            retries={"mode": "standard", "max_attempts": 4},
            connect_timeout=10,
            s3={"addressing_style": "path"} if location.endpoint else None,
        ),
    )


class Remote(Protocol):
    """What the garbage collection asks of a remote."""

    def sizes(self) -> dict[str, int]:
        """Every object that it holds: address to size in bytes."""

    def read(self, address: str) -> bytes | None:
        """A small object's bytes, or None."""


def open_remote(root: Path, config: Mapping[str, str]) -> Remote:
    """The default remote of the registry at `root`, by DVC's configuration (`dvc config --list`).

    Raises ConfigError for a kind of remote that cannot be asked.
    """
    name = config.get("core.remote", "")
    url = config.get(f"remote.{name}.url", "")
    if url.startswith("s3://"):
        options = {
            field: config.get(f"remote.{name}.{key}", "")
            for field, key in (("profile", "profile"), ("region", "region"))
        }
        location = parse_s3(url, config.get(f"remote.{name}.endpointurl", ""))
        return S3Remote(location.model_copy(update=options))
    if url and "://" not in url:
        return FolderRemote((root / ".dvc" / url).resolve())
    raise ConfigError(
        root / ".dvc" / "config",
        f"the remote {name or '(none)'} at {url or '(nowhere)'} cannot be asked what it holds",
        "Only folders and s3:// remotes can.",
    )


class FolderRemote:
    """A remote on a disk that is mounted here."""

    def __init__(self, folder: Path) -> None:
        self._objects = folder / OBJECTS

    def sizes(self) -> dict[str, int]:
        return {
            address: path.stat().st_size
            for path in self._objects.glob("??/*")
            if (address := address_of(f"{path.parent.name}/{path.name}"))
        }

    def read(self, address: str) -> bytes | None:
        path = self._objects / address[:2] / address[2:]
        return path.read_bytes() if path.is_file() else None


class S3Remote:
    """A remote in a bucket."""

    def __init__(self, location: S3Location) -> None:
        self.location = location
        with failures(location):
            self.client = s3_client(location)

    def sizes(self) -> dict[str, int]:
        prefix = self.location.key(f"{OBJECTS}/")
        found: dict[str, int] = {}
        with failures(self.location):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.location.bucket, Prefix=prefix
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    if address := address_of(entry["Key"].removeprefix(prefix)):
                        found[address] = entry["Size"]
        return found

    def read(self, address: str) -> bytes | None:
        with failures(self.location):
            opened = self.open(address)
            return opened and opened[1].read()

    def open(self, address: str, start: int = 0) -> tuple[int, StreamingBody] | None:
        """The length and the stream of an object's bytes from `start` on, or None.

        Raises what boto3 raises.
        """
        from botocore.exceptions import ClientError

        wanted: dict[str, Any] = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = self.client.get_object(**self._named(address), **wanted)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING_OBJECT:
                return None
            raise
        return answer["ContentLength"], answer["Body"]

    def size(self, address: str) -> int | None:
        """An object's size in bytes, or None; raises what boto3 raises."""
        from botocore.exceptions import ClientError

        try:
            return self.client.head_object(**self._named(address))["ContentLength"]
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING_OBJECT:
                return None
            raise

    def _named(self, address: str) -> dict[str, Any]:
        key = self.location.key(f"{OBJECTS}/{address[:2]}/{address[2:]}")
        return {"Bucket": self.location.bucket, "Key": key}


def address_of(relative: str) -> str:
    """The address that `xx/yyyy…` stands for, or '' when it is no object's name."""
    match = _ADDRESS.fullmatch(relative)
    return match[1] + match[2] if match else ""


def md5_of(data: bytes) -> str:
    """DVC's digest of bytes."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def remote_failure(output: str, url: str = "the DVC remote") -> RemoteFailed | None:
    """What dvc's own words say of its remote, as one of our errors; None when it is not that."""
    for line in output.splitlines():
        if not line.startswith(("ERROR: unexpected error - ", "ERROR: failed to connect to ")):
            continue
        fact = line.partition(" - ")[2].strip()
        if "NoSuchBucket" in fact:
            return BucketMissing(url, "")
        if any(f"({code})" in fact for code in _REFUSED) or "credentials" in fact.lower():
            return KeysRefused(url, "", fact)
        if "connect" in fact.lower() or "timeout" in fact.lower() or "(5" in fact:
            return RemoteUnreachable(url, "", fact)
    return None


@contextmanager
def failures(location: S3Location) -> Iterator[None]:
    """Whatever is left after the client's own retries, as one of ours."""
    from botocore import exceptions
    from botocore.exceptions import BotoCoreError, ClientError

    url, endpoint = location.url, location.endpoint
    no_keys = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.ProfileNotFound,
    )
    try:
        yield
    except no_keys as error:
        raise KeysRefused(url, endpoint, str(error)) from error
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
        if code in _MISSING_BUCKET:
            raise BucketMissing(url, endpoint) from error
        if code in _REFUSED:
            raise KeysRefused(url, endpoint, str(error)) from error
        raise RemoteUnreachable(url, endpoint, str(error)) from error
    except BotoCoreError as error:
        raise RemoteUnreachable(url, endpoint, str(error)) from error
