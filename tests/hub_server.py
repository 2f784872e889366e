"""A small server that speaks as much of the Hugging Face Hub's protocol as its client asks for.

Large files are redirected to another host name, as the real Hub does: the client refuses a
redirect to the same host. Each way to misbehave is one attribute.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
_PIECE_BYTES = 16 * 1024


@dataclass
class Fault:
    """What goes wrong with one file, `times` times; 'tree' and 'revision' stand for those calls.

    Either the whole answer is `status`, or after `after_bytes` of the body the connection is
    closed, reset (RST, as a proxy does that dies) or left silent.
    """

    times: int = 1_000_000
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    after_bytes: int = 0
    then: Literal["close", "reset", "silence"] = "reset"


@dataclass
class Repository:
    """One repository with one commit; `large` names the files that are kept as LFS objects."""

    files: dict[str, bytes]
    large: frozenset[str] = frozenset()
    commit: str = COMMIT
    branches: frozenset[str] = frozenset({"main"})
    gated: bool = False
    readers: frozenset[str] = frozenset()  # tokens that may read it when it is gated
    served: dict[str, bytes] = field(default_factory=dict)  # other bytes than the commit's
    faults: dict[str, Fault] = field(default_factory=dict)
    said_commit: str | None = ""  # '': its own; None: the header is left out, as some proxies do
    ignores_range: bool = False
    unsized: bool = False  # chunks instead of a Content-Length
    compressed: bool = False
    tree: list[dict[str, Any]] | None = None  # what the tree call says instead of the truth
    page_size: int = 1000  # entries of the tree in one answer
    bytes_per_s: int = 0
    moved_to: str = ""  # the name that it has now
    older: dict[str, Repository] = field(default_factory=dict)  # what it was, by commit

    def at(self, revision: str) -> Repository:
        """The repository as it was at this revision."""
        return self.older.get(revision, self)

    def is_called(self, revision: str) -> bool:
        """Whether a branch, tag or commit of this name, maybe short, is what is here."""
        short = len(revision) >= 7 and self.commit.startswith(revision)
        return short or revision in self.branches


@dataclass
class Request:
    """One request, and how many bytes of contents it was given."""

    method: str
    path: str
    host: str
    range: str
    token: str
    sent_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class HubServer:
    """The running server. `tokens` are the valid ones; any other is refused as invalid."""

    endpoint: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    tokens: frozenset[str] = frozenset()

    def contents(self, file: str = "") -> list[Request]:
        """The requests that were given a file's bytes."""
        return [
            request
            for request in self.requests
            if request.sent_bytes and request.path.endswith(file)
        ]

    def sent_bytes(self) -> int:
        """How many bytes of files it has sent in all."""
        return sum(request.sent_bytes for request in self.requests)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve on a free loopback port while the block runs."""
    server = _Server(("127.0.0.1", 0), _Handler)
    port = server.server_address[1]
    server.state = HubServer(f"http://127.0.0.1:{port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def git_oid(data: bytes) -> str:
    """The id that git gives to a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class _Reply:
    """An answer as it would be if nothing went wrong."""

    status: int
    headers: dict[str, str]
    data: bytes
    bytes_per_s: int = 0
    chunked: bool = False
    is_file: bool = True


class _Server(ThreadingHTTPServer):
    state: HubServer
    daemon_threads = True
    block_on_close = False  # a thread may be busy with a slow answer that nobody waits for

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> HubServer:
        return self.server.state  # type: ignore[attr-defined, no-any-return]

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep the test's output quiet."""

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.asked = Request(
            self.command,
            unquote(path),
            self.headers.get("Host", "").partition(":")[0],
            self.headers.get("Range", ""),
            self.headers.get("Authorization", "").removeprefix("Bearer "),
        )
        self.state.requests.append(self.asked)
        parts = [unquote(part) for part in path.removeprefix("/").split("/")]
        if parts[0] == "blobs":
            name, commit, file = "/".join(parts[1:3]), parts[3], "/".join(parts[4:])
            return self.contents(self.state.repositories[name].at(commit), file)
        api = parts[:2] == ["api", "models"]
        names, rest = (parts[2:4], parts[4:]) if api else (parts[:2], parts[2:])
        name = "/".join(names)
        repository = self.state.repositories.get(name)
        if self.asked.token and self.asked.token not in self.state.tokens:
            said = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return self.send(401, b"{}", said)
        if repository is None:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if repository.moved_to:
            where = urlsplit(self.path)._replace(path=path.replace(name, repository.moved_to))
            return self.send(307, b"", {"Location": where.geturl()})
        repository = repository.at(rest[1])
        if not repository.is_called(rest[1]):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if rest[0] in ("revision", "tree"):
            return self.api(rest[0], name, repository)
        self.resolve(name, repository, "/".join(rest[2:]))

    def api(self, call: str, name: str, repository: Repository) -> None:
        value: object = {"id": name, "sha": repository.commit, "siblings": []}
        headers = {"Content-Type": "application/json"}
        if call == "tree":
            entries = _tree(repository) if repository.tree is None else repository.tree
            page = int(parse_qs(urlsplit(self.path).query).get("page", ["0"])[0])
            start, size = page * repository.page_size, repository.page_size
            value = entries[start : start + size]
            if start + size < len(entries):
                address = self.state.endpoint + urlsplit(self.path).path
                headers["Link"] = f'<{address}?page={page + 1}>; rel="next"'
        reply = _Reply(200, headers, json.dumps(value).encode(), is_file=False)
        self.give(reply, self.fault(repository, call))

    def resolve(self, name: str, repository: Repository, file: str) -> None:
        headers = {"X-Repo-Commit": repository.said_commit or repository.commit}
        if repository.said_commit is None:
            del headers["X-Repo-Commit"]
        if repository.gated and self.asked.token not in repository.readers:
            status = 403 if self.asked.token else 401
            return self.send(status, b"{}", {**headers, "X-Error-Code": "GatedRepo"})
        if file not in repository.files:
            return self.send(404, b"{}", {**headers, "X-Error-Code": "EntryNotFound"})
        data = repository.files[file]
        if file in repository.large:
            host = self.state.endpoint.replace("127.0.0.1", "localhost")
            headers |= {
                "Location": f"{host}/blobs/{name}/{repository.commit}/{file}",
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
            }
            return self.send(302, b"", headers)
        self.contents(repository, file, {**headers, "ETag": f'"{git_oid(data)}"'})

    def contents(
        self, repository: Repository, file: str, headers: dict[str, str] | None = None
    ) -> None:
        """The file's bytes, or the part that was asked for, with whatever is to go wrong."""
        data = repository.served.get(file, repository.files[file])
        status, head = 200, dict(headers or {})
        wanted = self.asked.range.removeprefix("bytes=")
        if wanted and not repository.ignores_range:
            first, size = int(wanted.split("-")[0]), len(data)
            if first >= size:
                return self.send(416, b"", {"Content-Range": f"bytes */{size}"})
            status, head["Content-Range"] = 206, f"bytes {first}-{size - 1}/{size}"
            data = data[first:]
        if repository.compressed:
            data, head["Content-Encoding"] = gzip.compress(data), "gzip"
        reply = _Reply(status, head, data, repository.bytes_per_s, repository.unsized)
        self.give(reply, self.fault(repository, file))

    def fault(self, repository: Repository, what: str) -> Fault | None:
        fault = repository.faults.get(what)
        if fault is None or fault.times <= 0:
            return None
        fault.times -= 1
        return fault

    def give(self, reply: _Reply, fault: Fault | None) -> None:
        """Send the reply, up to where the fault sets in."""
        if fault is not None and fault.status:
            return self.send(fault.status, b"{}", fault.headers)
        length = {"Content-Length": str(len(reply.data))}
        framing = {"Transfer-Encoding": "chunked"} if reply.chunked else length
        self.begin(reply.status, {**framing, **reply.headers})
        if fault is None:
            self.write(reply, len(reply.data))
            return
        self.write(reply, fault.after_bytes)
        if fault.then == "silence":
            self.connection.settimeout(20)  # until the client has had enough
            self.rfile.read(1)
        self.close_connection = True
        if fault.then == "reset":
            # Closing with nothing lingering sends RST. The file object holds the socket too.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def write(self, reply: _Reply, stop: int) -> None:
        for start in range(0, stop, _PIECE_BYTES):
            piece = reply.data[start : min(stop, start + _PIECE_BYTES)]
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if reply.chunked else piece
            self.wfile.write(framed)
            if reply.is_file:
                self.asked.sent_bytes += len(piece)
            if reply.bytes_per_s:
                time.sleep(len(piece) / reply.bytes_per_s)
        if reply.chunked and stop >= len(reply.data):
            self.wfile.write(b"0\r\n\r\n")

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.begin(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)


def _tree(repository: Repository) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for path, data in repository.files.items():
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
        if path in repository.large:
            sha256 = hashlib.sha256(data).hexdigest()
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\n"
                f"size {len(data)}\n"
            ).encode()
            entry["oid"] = git_oid(pointer)
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}
        else:
            entry["oid"] = git_oid(data)
        entries.append(entry)
    return entries
