"""A real S3 server for tests: SeaweedFS on free ports of the loopback interface.

Besides each port that is named, SeaweedFS opens that port + 10,000 (gRPC), and by default 8181
(Iceberg) and 9101 (Lance): the last two are switched off, so that two test runs on one machine do
not meet. `-s3.autoCreateBucket=false` makes a missing bucket an error, as it is on AWS.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

import pytest

from pipelines.subprocesses import die_with_parent

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
_GRPC_OFFSET = 10_000
_START_ATTEMPTS = 3  # another run may take a port between our probe and the server's start
_READY_TIMEOUT_S = 120
# By default each bucket sets seven volumes aside, so that a dozen of buckets fill the server.
_MASTER = "[master.volume_growth]\ncopy_1 = 1\n"


@dataclass(frozen=True)
class S3Server:
    """A running server; every test takes a bucket of its own from `bucket()`."""

    endpoint: str
    access_key: str
    secret_key: str
    aws_config: Path  # an empty file: this user's own settings have no part in a test

    def environ(self) -> dict[str, str]:
        """The variables with which boto3, DVC and aws reach this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": str(self.aws_config),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.aws_config),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> S3Client:
        """A boto3 client with this server's keys, whatever the environment says."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(
                retries={"mode": "standard", "max_attempts": 8}, s3={"addressing_style": "path"}
            ),
        )

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS, started once per test run."""
    folder = tmp_path_factory.mktemp("weed")
    with running_s3_server(folder) as server:
        yield server
    shutil.rmtree(folder)


@contextmanager
def running_s3_server(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with its data in `folder`, killed when the block ends (SIGTERM takes 20 s)."""
    keys = {"accessKey": "weighbridge-test", "secretKey": secrets.token_hex(16)}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "test", "credentials": [keys], "actions": actions}
    config = folder / "s3.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "master.toml").write_text(_MASTER)  # found in the server's working folder
    (folder / "data").mkdir()
    (folder / "aws-config").touch()
    process, port = _start(folder, config)
    try:
        yield S3Server(
            f"http://127.0.0.1:{port}",
            keys["accessKey"],
            keys["secretKey"],
            folder / "aws-config",
        )
    finally:
        process.kill()
        process.wait()


class KillableS3Server:
    """A server of one's own that can be killed and come back on the same port with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with running_s3_server(folder) as server:  # its first start makes keys and volumes
            self.server = server
        self._port = int(server.endpoint.rpartition(":")[2])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it again and wait until it answers."""
        self._process = subprocess.Popen(
            _command(self._folder / "data", self._folder / "s3.json", self._port),
            stdout=(self._folder / "weed.log").open("ab"),
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            preexec_fn=die_with_parent,
        )
        address = f"http://127.0.0.1:{self._port}/healthz"
        assert _is_ready(self._process, address, lambda body: True)
        address = f"http://127.0.0.1:{self._port + 1}/dir/status"
        assert _is_ready(self._process, address, lambda body: b'"Volumes"' in body)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _start(folder: Path, config: Path) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(_START_ATTEMPTS):
        port = _free_ports(4)
        process = subprocess.Popen(
            _command(folder / "data", config, port),
            stdout=(folder / "weed.log").open("ab"),
            stderr=subprocess.STDOUT,
            cwd=folder,
            preexec_fn=die_with_parent,
        )
        # S3 answers before there is a volume to write to; until then reads and writes end in 500.
        if _is_ready(process, f"http://127.0.0.1:{port}/healthz", lambda body: True) and _is_ready(
            process, f"http://127.0.0.1:{port + 1}/dir/status", lambda body: b'"Volumes"' in body
        ):
            return process, port
        process.kill()
        process.wait()
    raise AssertionError(f"weed did not start: {(folder / 'weed.log').read_text()[-2000:]}")


def _command(data: Path, config: Path, port: int) -> list[str]:
    return [
        str(Path(sys.executable).with_name("weed")), "server", f"-dir={data}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-debug.port=0",
        "-s3", f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={config}", "-s3.autoCreateBucket=false", "-s3.iam=false",
        f"-master.port={port + 1}", f"-volume.port={port + 2}", f"-filer.port={port + 3}",
        "-s3.concurrentUploadLimitMB=128", "-filer.concurrentUploadLimitMB=128",
        "-master.volumeSizeLimitMB=128", "-volume.max=200", "-master.electionTimeout=1s",
        "-master.heartbeatInterval=100ms", "-volume.preStopSeconds=1",
    ]  # fmt: skip


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free, and free 10,000 above (for gRPC)."""
    for first in range(20_000 + os.getpid() % 900 * 10, 30_000 - count, count):
        numbers = range(first, first + count)
        if all(_is_free(number) and _is_free(number + _GRPC_OFFSET) for number in numbers):
            return first
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_ready(
    process: subprocess.Popen[bytes], url: str, complete: Callable[[bytes], bool]
) -> bool:
    """Wait until `url` answers as `complete` wants; False when the server ended before."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if complete(answer.read()):
                    return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    return False


class S3Faults:
    """A proxy before a server: answers 500 as long as `failing` is above zero, counting down.

    So many answers to PUT are `lost`: the server did as asked, and the connection is cut. So many
    are `stalled`: nothing is passed on, and the connection stays open without a word.
    """

    def __init__(self, server: S3Server) -> None:
        self.failing = self.lost = self.stalled = 0
        self.released = threading.Event()
        self.failed = 0
        self._upstream = urlsplit(server.endpoint).netloc
        self._lock = threading.Lock()
        faults = self

        class Handler(_Handler):
            through = faults

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server = replace(server, endpoint=f"http://127.0.0.1:{self._http.server_port}")

    def __enter__(self) -> S3Faults:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def fails_now(self) -> bool:
        """Whether the request at hand is to fail."""
        with self._lock:
            failing = self.failing > 0
            self.failing -= failing
            self.failed += failing
        return failing

    def spoils(self, way: str, method: str) -> bool:
        """Whether this answer to a PUT is to be lost or stalled."""
        with self._lock:
            spoil = method == "PUT" and getattr(self, way) > 0
            setattr(self, way, getattr(self, way) - spoil)
            self.failed += spoil
        return spoil

    def forward(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """The real server's answer; the Host header stays, as it is part of the signature."""
        upstream = http.client.HTTPConnection(self._upstream, timeout=60)
        upstream.request(request.command, request.path, body, dict(request.headers))
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        return answer.status, answer.getheaders(), data


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    through: ClassVar[S3Faults]

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: tests look at what the client did."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.through.spoils("stalled", self.command):
            self.through.released.wait(60)
            self.close_connection = True
            return
        if self.through.spoils("lost", self.command):
            self.through.forward(self, body)
            self.close_connection = True
            return
        if self.through.fails_now():
            status, headers, data = 500, [], b"<Error><Code>InternalError</Code></Error>"
        else:
            status, headers, data = self.through.forward(self, body)
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of an answer to HEAD: what a GET would give
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # the same for every method
            return self._answer
        raise AttributeError(name)
