"""A proxy in front of a real S3 server, to misbehave as real networks and stores do.

It passes requests on with all their headers (their signature covers the Host that the client
named, and the server checks it against that), and spoils the answers: each way is one attribute.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.s3_server import S3Server

_ERROR = (
    b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>We encountered an internal '
    b"error. Please try again.</Message></Error>"
)


@dataclass
class S3Proxy:
    """The running proxy; `asked` lists method, path and Range of requests for objects."""

    endpoint: str
    server: S3Server  # what it stands in front of
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # bytes of each object's GETs

    failing: int = 0  # so many answers are a 500
    cuts: dict[str, list[int]] = field(default_factory=dict)  # a key's next answers break off
    resets: bool = False  # what breaks off ends with a reset, not in silence
    stalls: bool = False  # what breaks off stays open, and silent
    flips: set[str] = field(default_factory=set)  # keys whose last byte comes wrong
    drops: str = ""  # the server does not know this request header
    before_get: Callable[[str], None] = lambda key: None
    listing: Callable[[bytes], bytes] = lambda body: body  # what becomes of a listing


@contextmanager
def s3_proxy(upstream: S3Server) -> Iterator[S3Proxy]:
    """Serve on a free loopback port while the block runs."""
    server = _Server(("127.0.0.1", 0), _Handler)
    state = S3Proxy(f"http://127.0.0.1:{server.server_address[1]}", upstream)
    server.state = state
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    state: S3Proxy

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.ended = threading.Event()

    def handle_error(self, *_: object) -> None:
        """A client that hung up in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep the test's output quiet."""

    def do_HEAD(self) -> None:
        self.pass_on()

    def do_GET(self) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        state = self.server.state
        parts = urlsplit(self.path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        if key:
            state.asked.append((self.command, key, self.headers.get("Range", "")))
            if self.command == "GET":
                state.before_get(key)
        if state.failing:
            state.failing -= 1
            return self.send(500, [("Content-Type", "application/xml")], _ERROR)
        upstream = http.client.HTTPConnection(urlsplit(state.server.endpoint).netloc, timeout=30)
        path, headers = self.path, dict(self.headers.items())
        if state.drops and key and self.command == "GET":
            path, headers = self.signed_anew(key), self.conditions()
        upstream.request(self.command, path, headers=headers)
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        if not key:
            body = state.listing(body)
        elif self.command == "GET" and answer.status < 300:
            if key in state.flips:
                body = body[:-1] + bytes([body[-1] ^ 1])
            cuts = state.cuts.get(key)
            cut = cuts.pop(0) if cuts else None
            state.sent[key] = state.sent.get(key, 0) + len(body[:cut])
            return self.send(answer.status, answer.getheaders(), body, cut)
        self.send(answer.status, answer.getheaders(), body)

    def signed_anew(self, key: str) -> str:
        """The path of a GET whose signature covers no header that could be left out."""
        bucket = urlsplit(self.path).path.split("/")[1]
        wanted = {"Bucket": bucket, "Key": key}
        url = urlsplit(
            self.server.state.server.client().generate_presigned_url("get_object", wanted)
        )
        return f"{url.path}?{url.query}"

    def conditions(self) -> dict[str, str]:
        known = {"Range", "If-Match"} - {self.server.state.drops}
        return {name: self.headers[name] for name in known if name in self.headers}

    def send(
        self, status: int, headers: list[tuple[str, str]], body: bytes, cut: int | None = None
    ) -> None:
        self.send_response_only(status)
        length = len(body)
        for name, value in headers:
            if name.lower() == "content-length":
                length = int(value) if self.command == "HEAD" else length
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.break_off()

    def break_off(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        if self.server.state.stalls:
            self.server.ended.wait(30)
        if self.server.state.resets:
            linger = struct.pack("ii", 1, 0)  # on close: send a reset, drop what is not sent
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
