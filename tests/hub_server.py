"""A small server that speaks as much of the Hugging Face Hub's protocol as its client asks for.

Large files are redirected to another host name, as the real Hub does: the client refuses a
redirect to the same host. Each way to misbehave is one attribute.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repository:
    """One repository with one commit; `large` names the files that are kept as LFS objects."""

    files: dict[str, bytes]
    large: frozenset[str] = frozenset()
    commit: str = COMMIT
    branches: frozenset[str] = frozenset({"main"})
    gated: bool = False
    served: dict[str, bytes] = field(default_factory=dict)  # other bytes than the commit's
    failing: set[str] = field(default_factory=set)  # files whose contents end in a 500


@dataclass
class HubServer:
    """The running server; `requests` lists what was asked, as 'METHOD path'."""

    endpoint: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve on a free loopback port while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    port = server.server_address[1]
    server.state = HubServer(f"http://127.0.0.1:{port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.state  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def git_oid(data: bytes) -> str:
    """The id that git gives to a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> HubServer:
        return self.server.state  # type: ignore[attr-defined, no-any-return]

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep the test's output quiet."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[0] == "blobs":
            name, file = "/".join(parts[1:3]), "/".join(parts[3:])
            return self.contents(self.state.repositories[name], file)
        names = parts[2:4] if parts[:2] == ["api", "models"] else parts[:2]
        rest = parts[4:] if parts[:2] == ["api", "models"] else parts[2:]
        name = "/".join(names)
        repository = self.state.repositories.get(name)
        if repository is None:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if rest[1] not in (repository.commit, *repository.branches):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if rest[0] == "revision":
            return self.json({"id": name, "sha": repository.commit, "siblings": []})
        if rest[0] == "tree":
            return self.json(_tree(repository))
        self.resolve(name, repository, "/".join(rest[2:]))

    def resolve(self, name: str, repository: Repository, file: str) -> None:
        headers = {"X-Repo-Commit": repository.commit}
        if repository.gated:
            status = 403 if "Authorization" in self.headers else 401
            return self.send(status, b"{}", {**headers, "X-Error-Code": "GatedRepo"})
        if file not in repository.files:
            return self.send(404, b"{}", {**headers, "X-Error-Code": "EntryNotFound"})
        data = repository.files[file]
        if file in repository.large:
            host = self.state.endpoint.replace("127.0.0.1", "localhost")
            headers |= {
                "Location": f"{host}/blobs/{name}/{file}",
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
            }
            return self.send(302, b"", headers)
        self.contents(repository, file, {**headers, "ETag": f'"{git_oid(data)}"'})

    def contents(
        self, repository: Repository, file: str, headers: dict[str, str] | None = None
    ) -> None:
        if file in repository.failing and self.command == "GET":
            return self.send(500, b"{}", {})
        data = repository.served.get(file, repository.files[file])
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            span = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return self.send(206, data[first:], {**(headers or {}), "Content-Range": span})
        self.send(200, data, headers or {})

    def json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
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
