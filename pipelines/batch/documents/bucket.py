"""Files of a corpus under an S3 prefix: listed page by page, read by ranges, held to their ETags.

The order is the listing's own, by the bytes of the keys. An object that was replaced between two
reads of it is noticed by its ETag.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pipelines.batch.documents.files import counted_as, is_wanted
from pipelines.batch.text import DocumentError
from pipelines.errors import ConfigError, SourceChanged, UnusableSource
from pipelines.store.bucket_errors import named_errors, transient_in_body

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from typing_extensions import Buffer

_BUFFER_BYTES = 256 * 1024
_ATTEMPTS = 8  # at one place of a body that breaks off


class BucketFiles:
    """Objects under s3://bucket/prefix, or the object of exactly that key.

    Credentials and AWS_ENDPOINT_URL as boto3 reads them. Raises SourceNotFound, SourceClosed and
    SourceUnreachable for the bucket; DocumentError for one object.
    """

    streams = 16

    def __init__(self, location: str, single: bool) -> None:
        import boto3
        from botocore.config import Config

        self._bucket, _, self._prefix = location.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise ConfigError(
                "corpus.path", f"{location!r} names no bucket", "Write s3://bucket/prefix."
            )
        self._location, self._single = location, single
        if not single and self._prefix and not self._prefix.endswith("/"):
            self._prefix += "/"
        self._endpoint = "S3"
        with named_errors(location, self._endpoint, self._bucket):
            self._client: S3Client = boto3.session.Session().client(
                "s3",
                config=Config(
                    retries={"mode": "standard", "max_attempts": 8},
                    s3={"addressing_style": "path"},
                    max_pool_connections=self.streams,
                ),
            )
        self._endpoint = self._client.meta.endpoint_url

    def paths(self, suffixes: Collection[str], ignored: Counter[str]) -> Iterator[str]:
        if self._single:
            yield ""
            return
        with named_errors(self._location, self._endpoint, self._bucket):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    path = entry["Key"].removeprefix(self._prefix)
                    if any(part.startswith(".") for part in path.split("/")):
                        ignored["hidden"] += 1
                    elif is_wanted(path, suffixes):
                        yield path
                    elif not path.endswith("/"):
                        ignored[counted_as(path)] += 1

    def open(self, path: str) -> tuple[BinaryIO, int]:
        try:
            raw = _Object(self._client, self._bucket, self._prefix + path, self.name(path))
        except (SourceChanged, UnusableSource) as error:  # gone, or archived
            raise DocumentError("unreadable", str(error)) from error
        return cast(BinaryIO, io.BufferedReader(raw, _BUFFER_BYTES)), raw.size

    def name(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{path}"


class _Object(io.RawIOBase):
    """One object as a seekable stream; a seek costs a new request when the next byte is read."""

    def __init__(self, client: S3Client, bucket: str, key: str, name: str) -> None:
        super().__init__()
        self._client, self._name = client, name
        self._wanted = {"Bucket": bucket, "Key": key}
        self._at, self._etag = 0, ""
        self._body: Any = None
        self.size = 0
        with named_errors(name, client.meta.endpoint_url, bucket):
            self._open()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset != self._at:
            self._drop()
            self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        for attempt in range(_ATTEMPTS):
            if self._at >= self.size or not view:
                return 0
            with named_errors(self._name, self._client.meta.endpoint_url, self._wanted["Bucket"]):
                if self._body is None:
                    self._open()
                try:
                    data = self._body.read(len(view))
                except transient_in_body():
                    if attempt == _ATTEMPTS - 1:
                        raise
                    data = b""
            if data:
                view[: len(data)] = data
                self._at += len(data)
                return len(data)
            self._drop()  # it broke off: from here again
        raise DocumentError("unreadable", f"broke off {_ATTEMPTS} times at byte {self._at}")

    def close(self) -> None:
        self._drop()
        super().close()

    def _open(self) -> None:
        asked: dict[str, Any] = dict(self._wanted)
        if self._etag:
            asked |= {"IfMatch": self._etag, "Range": f"bytes={self._at}-"}
        answer = self._client.get_object(**asked)
        if not self._etag:
            self._etag, self.size = answer["ETag"], answer["ContentLength"]
        elif answer["ETag"] != self._etag:
            raise SourceChanged(self._name, f"ETag {self._etag}", f"ETag {answer['ETag']}")
        self._body = answer["Body"]

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
