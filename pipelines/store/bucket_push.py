"""From this machine's cache to an S3 remote, by boto3's transfer manager, in DVC's layout.

DVC sends a large object in one stream as soon as others go with it, sends every entry of the run
cache each time, and takes two seconds to start. An object appears in the bucket under its name when
all of it has come, and a folder's listing comes after its files, as DVC relies on: a kill leaves
nothing that looks whole and is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.progress import Meter
from pipelines.store.bucket import STREAMS, bucket_location, members_of, object_path, read_object
from pipelines.store.integrity import locked_among
from pipelines.store.receiving import OnBytes
from pipelines.store.remote import OBJECTS, S3Remote, failures

_LARGE_BYTES = 8 * 1024 * 1024  # from here on boto3 sends parts, and asking first is worth it
_ABANDONED_AFTER = timedelta(days=1)  # an upload that a kill left unfinished
# Keys that may not, a store that cannot, somebody who was first: that costs space, and no push.
_MAY_NOT = {"AccessDenied", "Forbidden", "403", "NotImplemented", "NoSuchUpload"}
_RUN_CACHE_ENTRY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")


def push(tree: Path, home: Path, stages: Sequence[str]) -> bool:
    """Bring the outputs of these stage instances, and the run cache, into the S3 remote of `tree`.

    Its cache is that below `home`. A large object that the bucket holds with another size is
    damaged and is replaced. Returns False when anything is left for DVC: the remote is no bucket or
    has settings that only DVC knows, or the cache lacks an object. Raises BucketMissing,
    KeysRefused or RemoteUnreachable.
    """
    outputs = locked_among(tree, stages)
    location = bucket_location(tree, home)
    if location is None or outputs is None:
        return False
    objects = home / "cache" / OBJECTS
    files: dict[str, int] = {}
    listings: dict[str, list[str]] = {}
    for address in outputs:
        data = read_object(objects, address) if address.endswith(".dir") else None
        members = members_of(address, data)
        if members is None:
            return False
        if data is not None:
            listings[address] = members
        for member in members:
            try:
                files[member] = os.stat(object_path(objects, member)).st_size
            except FileNotFoundError:
                return False
    with failures(location):
        _Push(S3Remote(location), home / "cache").run(files, listings)
    return True


class _Push:
    """One push; boto3's transfer manager sends parts of large files, and small ones, at a time."""

    def __init__(self, remote: S3Remote, cache: Path) -> None:
        self._remote, self._cache = remote, cache
        self._client, self._location = remote.client, remote.location

    def run(self, files: Mapping[str, int], listings: Mapping[str, Sequence[str]]) -> None:
        """Send what the bucket lacks: files, then the listings of their folders, then runs."""
        objects = self._cache / OBJECTS
        large = [address for address, size in files.items() if size >= _LARGE_BYTES]
        asked = [*listings, *large]
        with ThreadPoolExecutor(STREAMS) as pool:
            there = dict(zip(asked, pool.map(self._remote.size, asked), strict=True))
        lacking = [
            address for address in listings
            if there[address] != os.stat(object_path(objects, address)).st_size
        ]  # fmt: skip
        # As DVC does: where a folder's listing is, its files are.
        whole = {m for address in listings if address not in lacking for m in listings[address]}
        going = [a for a in large if there[a] != files[a]]
        if going:
            self._abort_abandoned()
        going += [a for a, size in files.items() if size < _LARGE_BYTES and a not in whole]
        meter = Meter(f"push to {self._location.url}", sum(files[a] for a in going))
        for addresses, heard in ((going, meter.add), (lacking, _unheard)):
            named = {f"{OBJECTS}/{a[:2]}/{a[2:]}": object_path(objects, a) for a in addresses}
            self._send(named, heard)
        self._send(self._new_runs(), _unheard)

    def _new_runs(self) -> dict[str, str]:
        """Entries of this cache's run cache that the bucket lacks; their names tell their bytes."""
        runs = self._cache / "runs"
        here = {path.relative_to(runs).as_posix(): str(path) for path in runs.glob("??/*/*")}
        prefix = self._location.key("runs/")
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._location.bucket, Prefix=prefix
        )
        there = {
            entry["Key"].removeprefix(prefix)
            for page in pages
            for entry in page.get("Contents", [])
        }
        return {
            f"runs/{name}": path
            for name, path in here.items()
            if name not in there and _RUN_CACHE_ENTRY.fullmatch(name)
        }

    def _send(self, files: Mapping[str, str], on_bytes: OnBytes) -> None:
        """Send local files under their keys; those that came whole stay when another fails."""
        from boto3.s3.transfer import (
            ProgressCallbackInvoker,
            TransferConfig,
            create_transfer_manager,
        )

        if not files:
            return
        # boto3 sends checksums along, by which the server refuses what was damaged on its way.
        config = TransferConfig(preferred_transfer_client="classic")
        with create_transfer_manager(self._client, config) as manager:
            heard = [ProgressCallbackInvoker(on_bytes)]
            futures = [
                manager.upload(path, self._location.bucket, self._location.key(name), None, heard)
                for name, path in files.items()
            ]
            for future in futures:
                future.result()

    def _abort_abandoned(self) -> None:
        """Give back the space of uploads that a kill left unfinished long ago."""
        from botocore.exceptions import ClientError

        bucket = self._location.bucket
        limit = datetime.now(UTC) - _ABANDONED_AFTER
        pages = self._client.get_paginator("list_multipart_uploads")
        try:
            for page in pages.paginate(Bucket=bucket, Prefix=self._location.key(f"{OBJECTS}/")):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < limit:
                        self._client.abort_multipart_upload(
                            Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
        except ClientError as error:
            if error.response["Error"]["Code"] not in _MAY_NOT:
                raise


def _unheard(_: int) -> None:
    """Listings and run cache entries are too small to speak of."""
