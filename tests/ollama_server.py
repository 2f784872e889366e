"""A small Ollama registry on the loopback interface; each way to misbehave is one attribute."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LAYER = "application/vnd.ollama.image."
GGUF_CONFIG = {"model_format": "gguf", "model_family": "llama", "file_type": "F32"}


def digest_of(data: bytes) -> str:
    """A blob's address."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class OllamaServer:
    """The running registry."""

    host: str
    manifests: dict[str, bytes] = field(default_factory=dict)  # by NAMESPACE/MODEL:TAG
    blobs: dict[str, bytes] = field(default_factory=dict)  # by digest
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and Range of each request
    sent: dict[str, int] = field(default_factory=dict)  # bytes of each blob that went out

    served: dict[str, bytes] = field(default_factory=dict)  # other bytes than the digest's
    cuts: dict[str, list[int]] = field(default_factory=dict)  # its next answers break off
    failing: int = 0  # so many answers are a 500
    status: int = 0  # every answer is this
    ignores_range: bool = False
    redirects: bool = False  # blobs lie on another host
    keeps_old: bool = False  # manifests can be had by digest

    def push(
        self,
        name: str,
        layers: Sequence[tuple[str, bytes]],
        config: object = GGUF_CONFIG,
    ) -> bytes:
        """Keep a model under NAMESPACE/MODEL:TAG; layers are kinds and bytes. The manifest."""
        data = manifest_of(layers, config, self.blobs)
        self.manifests[name] = data
        self.manifests[f"{name.rpartition(':')[0]}:{digest_of(data)}"] = data
        return data


def manifest_of(
    layers: Sequence[tuple[str, bytes]], config: object, blobs: dict[str, bytes]
) -> bytes:
    """The manifest of these layers, whose bytes are added to `blobs`."""

    def add(media_type: str, data: bytes) -> dict[str, object]:
        blobs[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": add(
            "application/vnd.docker.container.image.v1+json", json.dumps(config).encode()
        ),
        "layers": [add(LAYER + kind, data) for kind, data in layers],
    }
    return json.dumps(document).encode()


@contextmanager
def ollama_server() -> Iterator[OllamaServer]:
    """Serve on a free loopback port while the block runs."""
    server = _Server(("127.0.0.1", 0), _Handler)
    state = OllamaServer(f"127.0.0.1:{server.server_address[1]}")
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hung up in the middle of an answer, as ours does when it gives up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> OllamaServer:
        return self.server.state  # type: ignore[attr-defined, no-any-return]

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep the test's output quiet."""

    def do_GET(self) -> None:
        state = self.state
        state.asked.append((self.path, self.headers.get("Range", "")))
        if state.failing:
            state.failing -= 1
            return self.send(500, b"")
        if state.status:
            return self.send(state.status, b"")
        _, _, namespace, model, kind, address = self.path.split("/")
        if kind == "manifests":
            data = state.manifests.get(f"{namespace}/{model}:{address}")
            by_digest = address.startswith("sha256:")
            if data is None or (by_digest and not state.keeps_old):
                return self.send(404, b"{}")
            return self.send(200, data)
        if state.redirects and self.headers["Host"].startswith("127.0.0.1"):
            elsewhere = f"http://{state.host.replace('127.0.0.1', 'localhost')}{self.path}"
            return self.send(307, b"", {"Location": elsewhere})
        self.blob(address)

    def blob(self, digest: str) -> None:
        data = self.state.served.get(digest, self.state.blobs.get(digest))
        if data is None:
            return self.send(404, b"{}")
        wanted = self.headers.get("Range", "")
        status, headers, first = 200, {}, 0
        if wanted and not self.state.ignores_range:
            status, first = 206, int(wanted.removeprefix("bytes=").split("-")[0])
            if first >= len(data):
                return self.send(416, b"")
            headers = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        cuts = self.state.cuts.get(digest)
        cut = cuts.pop(0) if cuts else None
        body = data[first:]
        sent = len(body) if cut is None else min(cut, len(body))
        self.state.sent[digest] = self.state.sent.get(digest, 0) + sent
        self.send(status, body, headers, cut)

    def send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True
