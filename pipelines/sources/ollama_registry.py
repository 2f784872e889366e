"""An Ollama registry: manifests by tag, blobs by digest, over HTTP.

Loopback hosts are spoken to in plain HTTP, and so are those that WEIGHBRIDGE_INSECURE_REGISTRIES
names (host or host:port, separated by commas); all others in HTTPS. Whatever the way, a blob's
bytes must be those of the digest in the manifest, and the manifest's those of the pin.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.errors import SourceChanged, SourceClosed, SourceNotFound, SourceUnreachable
from pipelines.references import Reference
from pipelines.store.receiving import Offer, Reader
from pipelines.store.resuming import (
    BrokeOff,
    ResumingReader,
    describe,
    discard,
    persist,
)

if TYPE_CHECKING:
    from httpx import Response

INSECURE_VARIABLE = "WEIGHBRIDGE_INSECURE_REGISTRIES"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0  # without a byte
_COME_AGAIN = (408, 429, 500, 502, 503, 504)
_PULL = (
    "Fetch it with `ollama pull` on a machine that may, and name it as ollama:///name:tag there."
)


class OllamaRegistry:
    """One model of a registry; `name` is NAMESPACE/MODEL."""

    streams = 4
    remote = True

    def __init__(self, reference: Reference, host: str, name: str) -> None:
        self._reference, self._host, self._name = str(reference), host, name
        self._url = f"{_scheme(host)}://{host}/v2/{name}"

    def manifest(self, tag: str) -> bytes | None:
        """The manifest of a tag or digest; None when the registry has none.

        Raises SourceUnreachable when the registry does not answer, SourceClosed when it asks for
        a login.
        """
        from httpx import RequestError

        def ask() -> bytes | None:
            with self._get(f"manifests/{tag}", self._reference, 0) as answer:
                if answer.status_code == 404:
                    return None
                data = b""
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > MAX_MANIFEST_BYTES:
                        fact = f"{self._host} gives more than {MAX_MANIFEST_BYTES} bytes"
                        raise SourceUnreachable(f"{self._reference} manifest", fact)
                return data

        try:
            return persist(ask, (RequestError,))
        except (BrokeOff, RequestError) as error:
            fact = f"the registry {self._host} does not answer as it should ({describe(error)})"
            raise SourceUnreachable(self._reference, fact) from error

    def absent(self, tag: str) -> SourceNotFound:
        """What to say of a tag that is not there."""
        fact = f"the registry {self._host} has no {self._name}:{tag}"
        return SourceNotFound(self._reference, fact, "Check the name and the tag.")

    @contextmanager
    def open_blob(self, offer: Offer, digest: str, offset: int) -> Iterator[Reader]:
        """Stream a blob from `offset` on; a stream that breaks off is taken up again.

        Raises SourceNotFound for a blob that the registry does not have.
        """
        from httpx import RequestError

        @contextmanager
        def open_from(start: int) -> Iterator[Reader]:
            with self._get(f"blobs/{digest}", str(offer), start) as answer:
                if answer.status_code == 404:
                    fact = f"the registry {self._host} does not have the blob {digest}"
                    raise SourceNotFound(str(offer), fact, "Ask its publisher to push it again.")
                stream = _Body(answer)
                if answer.status_code == 200:
                    discard(stream, start)
                yield stream

        with ResumingReader(offer, offset, open_from, (RequestError,)) as stream:
            yield stream

    @contextmanager
    def _get(self, path: str, subject: str, start: int) -> Iterator[Response]:
        """An answer with 200, 206 from the right byte on, or 404; all others raise."""
        import httpx

        # A compressed form would have other offsets than the blob.
        headers = {"Accept": _MANIFEST, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        with httpx.stream(
            "GET", f"{self._url}/{path}", headers=headers, timeout=timeout, follow_redirects=True
        ) as answer:
            self._check(answer, subject, start)
            yield answer

    def _check(self, answer: Response, subject: str, start: int) -> None:
        status, host = answer.status_code, answer.url.netloc.decode()
        if status in _COME_AGAIN or (status == 403 and answer.history):
            raise BrokeOff(f"{host} answered {status}")  # 403: a signed address that ran out
        if status in (401, 403):
            fact = f"the registry {host} asks for a login ({status})"
            raise SourceClosed(subject, fact, _PULL)
        if status == 416:
            raise SourceChanged(subject, "the size in its manifest", f"no more than {start} bytes")
        if status not in (200, 206, 404):
            raise SourceUnreachable(subject, f"the registry {host} answers with {status}")
        span = answer.headers.get("Content-Range", "")
        if status == 206 and not span.startswith(f"bytes {start}-"):
            raise BrokeOff(f"{host} answered with {span!r}, asked from byte {start} on")


class _Body:
    """An answer's body as a stream that fills buffers."""

    def __init__(self, answer: Response) -> None:
        self._pieces = answer.iter_raw()
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _scheme(host: str) -> str:
    insecure = {name.strip() for name in os.environ.get(INSECURE_VARIABLE, "").split(",")}
    name = host.partition(":")[0]
    return "http" if _is_loopback(name) or {host, name} & insecure else "https"


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:  # a name, not a number
        return name == "localhost"
