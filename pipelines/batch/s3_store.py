"""An output on S3, or on anything that honours `If-None-Match: *` on PUT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError, StoreFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MISSING = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed"}
_CONFLICT = {"409", "ConditionalRequestConflict"}  # another create is under way: ask again
_ROUNDS = 5
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60  # of silence, not of a whole transfer; the client then tries again


class S3Store:
    """Objects under s3://bucket/prefix; credentials and AWS_ENDPOINT_URL as boto3 reads them.

    A PUT that succeeded but whose answer was lost is retried by the client and then answered with
    412: `create` says False for an object that it wrote. That is harmless here, as whoever is told
    False drops its own rows and takes what is committed.
    """

    def __init__(self, output: str) -> None:
        import boto3
        from botocore.config import Config

        bucket, _, prefix = output.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigError("output", f"{output!r} names no bucket", "Write s3://bucket/prefix.")
        self._output, self._bucket = output, bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        with self._failures(""):
            # A session of our own: the default one is shared by threads and keeps old credentials.
            self._client: S3Client = boto3.session.Session().client(
                "s3",
                config=Config(
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    read_timeout=_READ_TIMEOUT_S,
                    retries={"mode": "standard", "max_attempts": 8},
                    s3={"addressing_style": "path"},
                ),
            )

    @property
    def location(self) -> str:
        return self._output

    def create(self, name: str, data: bytes) -> bool:
        with self._failures(name):
            for _ in range(_ROUNDS):
                code = self._put_new(self._prefix + name, data)
                if code not in _CONFLICT:
                    return not code
        raise StoreFailed(self._output, name, f"{_ROUNDS} conflicts with other writers in a row")

    def replace(self, name: str, data: bytes) -> None:
        with self._failures(name):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)

    def read(self, name: str) -> bytes | None:
        with self._failures(name):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except self._client.exceptions.NoSuchKey:
                return None
            return answer["Body"].read()

    def exists(self, name: str) -> bool:
        from botocore.exceptions import ClientError

        with self._failures(name):
            try:
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
            except ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    return False
                raise
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        with self._failures(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield entry["Key"].removeprefix(self._prefix)

    def delete(self, name: str) -> None:
        with self._failures(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def tidy(self) -> None:
        """Nothing: a PUT that was cut off leaves nothing to be seen."""

    def _put_new(self, key: str, data: bytes) -> str:
        """One conditional PUT; '' when it wrote, else the code that says why it did not."""
        from botocore.exceptions import ClientError

        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _TAKEN | _CONFLICT:
                return code
            raise
        return ""

    @contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        """Whatever is left after the client's own retries, as one of ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise StoreFailed(self._output, name, str(error)) from error
