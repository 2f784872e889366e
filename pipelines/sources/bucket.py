"""s3:// — weights under a prefix of a bucket, or one object of weights.

Credentials, region, profile and endpoint are what boto3 finds. The pin is the weight digest of
what is taken. From the listing to the last byte each object is held to its ETag: a server that is
asked for an object's bytes after it was replaced refuses, and one that does not is noticed.
"""

from __future__ import annotations

import base64
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.errors import ConfigError, SourceChanged, SourceNotFound
from pipelines.references import Reference
from pipelines.sources.selection import MAX_FILES, WEIGHT_PATTERNS, Selection, check_names, select
from pipelines.store.bucket_errors import named_errors, transient_in_body
from pipelines.store.receiving import SMALL_BYTES, Offer, Reader, Stated
from pipelines.store.resuming import BrokeOff, ResumingReader, discard

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_QUESTIONS = 16  # HEAD requests at a time
_ATTEMPTS = 8  # of one request: about half a minute of answers with 500
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0  # without a byte
_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_MD5 = re.compile(r'"([0-9a-f]{32})"')
_SUFFIXES = tuple(pattern.removeprefix("*") for pattern in WEIGHT_PATTERNS)


@dataclass(frozen=True, slots=True)
class _Object:
    """One object as it was listed; `version` and `stated` are known of those that were asked."""

    key: str
    size_bytes: int
    etag: str
    modified: str
    version: str = ""
    stated: Stated | None = None


class BucketSource:
    """The objects under one prefix, or the object of exactly that key.

    Raises SourceNotFound for a bucket or prefix that is not there, SourceClosed, SourceUnreachable,
    UnusableSource for unsafe keys, and ConfigError for an endpoint that is no URL.
    """

    streams = 8
    remote = True

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._bucket, _, self._prefix = reference.where.partition("/")
        self._endpoint = "S3"
        with self._named_errors(str(reference)):
            self._client = _client()
        self._endpoint = self._client.meta.endpoint_url
        with self._named_errors(str(reference)):
            listed = list(islice(self._list(), MAX_FILES + 1))
        names = [self._relative(found.key) for found in listed]
        check_names(str(reference), names)  # before names are normalised: two may become one
        self._objects = {
            unicodedata.normalize("NFC", name): found
            for name, found in zip(names, listed, strict=True)
        }
        if not self._objects:
            fact = f"nothing lies under this prefix at {self._endpoint}"
            raise SourceNotFound(str(reference), fact, "Check the prefix and the endpoint.")
        self._ask_large()
        self.offers: Mapping[str, Offer] = {
            path: self._offer(path, found) for path, found in self._objects.items()
        }

    def select(self, paths: Sequence[str]) -> Selection:
        """As every source does."""
        return select(paths)

    def placed(self, path: str, selection: Selection) -> str:
        """Files keep their names."""
        return path

    @contextmanager
    def open_at(self, offer: Offer, offset: int) -> Iterator[Reader]:
        """Stream the object from `offset` on; a stream that breaks off is taken up again.

        Raises SourceChanged when the object is not the one that was listed.
        """
        found = self._objects[offer.path]

        @contextmanager
        def open_from(start: int) -> Iterator[Reader]:
            yield from self._get(offer, found, start)

        with (
            self._named_errors(str(offer)),
            ResumingReader(offer, offset, open_from, transient_in_body()) as stream,
        ):
            yield stream

    def _list(self) -> Iterator[_Object]:
        """Everything under the prefix but folder markers; else the object of that very name."""
        folder = f"{self._prefix}/" if self._prefix else ""
        pages = self._client.get_paginator("list_objects_v2")
        empty = True
        for prefix in (folder, self._prefix):
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    if prefix != folder and entry["Key"] != self._prefix:
                        return  # the name itself sorts before all that begin with it
                    if not (entry["Key"].endswith("/") and entry["Size"] == 0):
                        empty = False
                        yield _listed(entry)
            if not empty or not self._prefix.endswith(_SUFFIXES):
                return

    def _relative(self, key: str) -> str:
        if key == self._prefix:
            return key.rsplit("/", 1)[-1]
        return key.removeprefix(f"{self._prefix}/") if self._prefix else key

    def _offer(self, path: str, found: _Object) -> Offer:
        """The key holds what changes with an object: version or ETag, size, time."""
        where = f"s3://{self._bucket}/{found.key}"
        state = f"{found.version or found.etag}:{found.size_bytes}:{found.modified}"
        key = f"{self._endpoint} {where}#{state}"
        return Offer(str(self.reference), path, found.size_bytes, key, found.stated)

    def _ask_large(self) -> None:
        """Ask for checksum and version of what is large; small objects come with theirs."""
        chosen = select(self._objects)
        large = [
            path
            for path in (*chosen.model, *chosen.licences, *chosen.papers)
            if self._objects[path].size_bytes > SMALL_BYTES
        ]
        with ThreadPoolExecutor(max_workers=_QUESTIONS) as pool:
            self._objects |= zip(large, pool.map(self._asked, large), strict=True)

    def _asked(self, path: str) -> _Object:
        found = self._objects[path]
        with self._named_errors(f"{self.reference} {path}"):
            head = self._client.head_object(
                Bucket=self._bucket, Key=found.key, IfMatch=found.etag, ChecksumMode="ENABLED"
            )
        if (etag := head.get("ETag")) != found.etag:
            raise SourceChanged(f"{self.reference} {path}", f"ETag {found.etag}", f"ETag {etag}")
        version = head.get("VersionId", "null")
        return replace(
            found,
            version="" if version == "null" else version,
            stated=stated_by(head, is_directory_bucket=self._bucket.endswith("--x-s3")),
        )

    def _get(self, offer: Offer, found: _Object, start: int) -> Iterator[Reader]:
        """One GET; small objects whole, so that the client checks the checksum they come with."""
        wanted: dict[str, Any] = {"Key": found.key, "IfMatch": found.etag}
        if found.version:
            wanted["VersionId"] = found.version
        if start or found.size_bytes > SMALL_BYTES:
            wanted["Range"] = f"bytes={start}-"
        answer = self._client.get_object(Bucket=self._bucket, **wanted)
        body: Any = answer["Body"]  # its stubs do not know readinto's argument
        try:
            if (etag := answer.get("ETag")) != found.etag:
                raise SourceChanged(str(offer), f"ETag {found.etag}", f"ETag {etag}")
            span = answer.get("ContentRange", "")
            if span and not span.startswith(f"bytes {start}-"):
                raise BrokeOff(f"the store answered with {span}, asked from byte {start} on")
            if start and not span:
                discard(body, start)
            yield body
        finally:
            body.close()

    @contextmanager
    def _named_errors(self, subject: str) -> Iterator[None]:
        with named_errors(subject, self._endpoint, self._bucket):
            yield


def stated_by(head: Mapping[str, Any], *, is_directory_bucket: bool = False) -> Stated | None:
    """The digest of a whole object that the answer to a HEAD request states, if there is one.

    Checksums over the parts of an upload say nothing of the bytes in a row and are passed over,
    as are CRC32C and CRC64NVME, which nothing installed here computes. An ETag is the md5 of the
    bytes only by AWS's rules for objects that came in one part and are not encrypted with KMS or
    a customer's key; directory buckets have none such.
    """
    if head.get("ChecksumType") != "COMPOSITE":
        if value := _hexadecimal(head.get("ChecksumSHA256", "")):
            return Stated("sha256", value)
        if value := _hexadecimal(head.get("ChecksumCRC32", "")):
            return Stated("crc32", value, _Crc32)
    encrypted = head.get("SSECustomerAlgorithm") or head.get("ServerSideEncryption") not in (
        None, "AES256",
    )  # fmt: skip
    etag = _MD5.fullmatch(head["ETag"])
    if etag and not encrypted and not is_directory_bucket:
        return Stated("md5", etag[1])
    return None


def _hexadecimal(checksum: str) -> str:
    """A checksum header's base64 in hexadecimal; '' for one over parts (`…-3`)."""
    return "" if "-" in checksum else base64.b64decode(checksum).hex()


class _Crc32:
    """zlib's CRC-32 with the methods of hashlib's objects."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _listed(entry: Mapping[str, Any]) -> _Object:
    modified = entry["LastModified"].astimezone(UTC).isoformat()
    return _Object(entry["Key"], entry["Size"], entry["ETag"], modified)


def _client() -> S3Client:
    """A client of our own session: the default one is shared by threads and keeps old keys."""
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        max_pool_connections=_QUESTIONS,
    )
    session = boto3.session.Session()
    try:
        client: S3Client = session.client("s3", config=config)
        if (urlsplit(client.meta.endpoint_url).hostname or "").endswith(_AWS):
            return client
        by_path = config.merge(Config(s3={"addressing_style": "path"}))
        return session.client("s3", config=by_path)
    except ValueError as error:  # botocore's word for an endpoint that is no URL
        remedy = "Write https://host or http://host:port in AWS_ENDPOINT_URL."
        raise ConfigError("AWS_ENDPOINT_URL", str(error), remedy) from error
