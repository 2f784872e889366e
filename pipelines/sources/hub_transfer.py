"""One answer of the Hub as a stream of a file's bytes, checked to be what was asked for.

The client's own download cannot be resumed after a crash, and does not check what it fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.errors import TransferCutOff, WrongAnswer
from pipelines.progress import report
from pipelines.references import Reference
from pipelines.sources.hub_answers import (
    asked_wait_s,
    named_errors,
    request_headers,
    timeout_s,
)
from pipelines.store.receiving import Offer, Reader
from pipelines.store.resuming import BrokeOff, discard
from pipelines.store.stopping import sleep

if TYPE_CHECKING:
    from httpx2 import Response

LONGEST_WAIT_S = 300.0  # the Hub counts requests in windows of five minutes
_COME_AGAIN = (408, 429, 500, 502, 503, 504)
_PART = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@contextmanager
def open_from(reference: Reference, url: str, offer: Offer, offset: int) -> Iterator[Reader]:
    """Ask the Hub once for a file, from `offset` on; `url` is the file's address there.

    It and its stream raise BrokeOff, or the HTTP library's error, for what may pass; WrongAnswer
    when the answer is not the file; SourceClosed or SourceNotFound when the Hub says so.
    """
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # re-exported

    # A compressed form would have other offsets than the file.
    headers = {**request_headers(), "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    # The address of a blob is signed and runs out, so each request begins at the Hub's own. On the
    # way to another host the HTTP client takes the token off.
    with get_session().stream(
        "GET", url, headers=headers, timeout=timeout_s(), follow_redirects=True
    ) as response:
        _Check(reference, offer, offset, response).all()
        stream = _Body(response)
        if offset and response.status_code == 200:  # this server knows no ranges
            discard(stream, offset)
        yield stream


class _Check:
    """Whether an answer is the file, from the byte that was asked for."""

    def __init__(self, reference: Reference, offer: Offer, offset: int, response: Response) -> None:
        self._reference, self._offer, self._offset = reference, offer, offset
        self._response = response

    def all(self) -> None:
        self._check_status()
        self._check_commit()
        if self._response.status_code == 206:
            self._check_part()
        else:
            self._check_whole()

    def _check_status(self) -> None:
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        response = self._response
        status = response.status_code
        if status in _COME_AGAIN or (status in (401, 403) and self._is_elsewhere()):
            self._wait(f"{response.url.host} answered {status}")
        if status == 416:
            size = response.headers.get("Content-Range", "").rpartition("/")[2] or "fewer"
            raise self._wrong(f"has a file of {size} bytes, not {self._offer.size_bytes}")
        with named_errors(self._reference):
            hf_raise_for_status(response)
        if status not in (200, 206):
            raise self._wrong(f"answered {status}")

    def _is_elsewhere(self) -> bool:
        """Whether it is another host's answer, whose no means that the signature ran out."""
        response = self._response
        return any(answer.url.netloc != response.url.netloc for answer in response.history)

    def _wait(self, fact: str) -> None:
        """Wait as long as the answer asks for, then have the request made again."""
        wait_s = asked_wait_s(self._response)
        if wait_s > LONGEST_WAIT_S:
            offer, fact = self._offer, f"{fact}, and asks to come back in {wait_s:.0f} s"
            raise TransferCutOff(str(offer), self._offset, offer.size_bytes, fact)
        self._response.close()
        if wait_s:
            report(0, wait_s, "s", f"wait for {self._offer.path}, as {fact}")
        sleep(wait_s)
        raise BrokeOff(fact)

    def _check_commit(self) -> None:
        """Refuse an answer for another commit.

        A mirror that leaves the header out is let pass: the tree of the commit states a digest of
        every file, and each byte is checked against it.
        """
        revision = self._reference.revision
        for answer in (*self._response.history, self._response):
            commit = answer.headers.get("X-Repo-Commit", revision)
            if commit != revision:
                raise self._wrong(f"answers for commit {commit}")

    def _check_part(self) -> None:
        said = self._response.headers.get("Content-Range", "")
        part = _PART.fullmatch(said)
        if part is None or int(part[1]) != self._offset or _is_encoded(self._response):
            raise self._wrong(f"gives {said!r} for bytes={self._offset}-")
        self._check_size(part[3])

    def _check_whole(self) -> None:
        if not _is_encoded(self._response):
            self._check_size(self._response.headers.get("Content-Length", "*"))

    def _check_size(self, stated: str) -> None:
        if stated not in ("*", str(self._offer.size_bytes)):
            raise self._wrong(f"has a file of {stated} bytes, not {self._offer.size_bytes}")

    def _wrong(self, fact: str) -> WrongAnswer:
        server = self._response.url.netloc.decode("ascii")
        return WrongAnswer(str(self._offer), server, fact)


class _Body:
    """The bytes of one answer, in full buffers: what comes in pieces costs more to hash."""

    def __init__(self, response: Response) -> None:
        self._pieces = response.iter_bytes()
        self._rest = memoryview(b"")  # of a piece that was longer than the buffer
        self._error: Exception | None = None

    def readinto(self, buffer: memoryview, /) -> int:
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        filled = 0
        while filled < len(buffer) and self._error is None:
            try:
                self._rest = self._rest or memoryview(next(self._pieces, b""))
            except HTTPError as error:  # raised once what came before it has been handed over
                self._error = error
            if not self._rest:
                break
            count = min(len(self._rest), len(buffer) - filled)
            buffer[filled : filled + count] = self._rest[:count]
            self._rest = self._rest[count:]
            filled += count
        if self._error is not None and not filled:
            raise self._error
        return filled


def _is_encoded(response: Response) -> bool:
    return str(response.headers.get("Content-Encoding", "identity")) != "identity"
