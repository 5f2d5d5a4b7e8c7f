"""A dataset on the hub: a local server in its place, asked by the real client in a process."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np
import pytest
import soundfile

pytest.importorskip("datasets", reason="the extra datasets is not installed")
pa = pytest.importorskip("pyarrow", reason="the extra datasets is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = 12

CLIENT = """
import json, sys
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import open_source, read_audio

found = {}
for name in sys.argv[1:]:
    try:
        utterances, failures = open_source(name).list()
        sums = {u.id: float(abs(read_audio(u, 16000)).sum()) for u in utterances}
        found[name] = [len(utterances), len(failures), utterances[0].path, sums]
    except UserError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


class Hub(BaseHTTPRequestHandler):
    """What the hub answers for one repository, `some/corpus`."""

    protocol_version = "HTTP/1.1"
    root: Path
    sent: dict[str, int]  # bytes by file

    def log_message(self, *_):
        pass

    def _send(self, code: int, body: bytes = b"", length: int | None = None, **headers: str):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object):
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def _describe(self, path: Path) -> dict:
        data = path.read_bytes() if path.is_file() else b""
        return {
            "type": "file" if path.is_file() else "directory",
            "oid": hashlib.sha1(data).hexdigest(),
            "size": len(data),
            "path": str(path.relative_to(self.root)),
        }

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        self._json([self._describe(self.root / p) for p in asked if (self.root / p).exists()])

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        if re.fullmatch(r"/api/datasets/some/corpus(/revision/[^/]+)?", path):
            names = [str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()]
            siblings = [{"rfilename": name} for name in names]
            self._json({"id": "some/corpus", "sha": COMMIT, "siblings": siblings, "tags": []})
        elif found := re.fullmatch(r"/api/datasets/some/corpus/tree/[^/]+/?(.*)", path):
            folder = self.root / found[1]
            self._json([self._describe(p) for p in sorted(folder.iterdir())])
        elif found := re.fullmatch(r"/datasets/some/corpus/resolve/[^/]+/(.+)", path):
            self._file(self.root / found[1])
        else:
            self._send(404, b"{}")

    def _file(self, path: Path):
        if not path.is_file():
            self._send(404, X_Error_Code="EntryNotFound")
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": COMMIT}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if self.command == "HEAD":
            self._send(200, length=len(data), **headers)
            return
        start, stop = (int(part[1]), int(part[2] or len(data) - 1) + 1) if part else (0, len(data))
        body = data[start:stop]
        self.sent[path.name] = self.sent.get(path.name, 0) + len(body)
        if part:
            headers["Content_Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
        self._send(206 if part else 200, body, **headers)


@pytest.fixture
def hub(tmp_path):
    """The handler of a running server, and its address."""
    root = tmp_path / "repository"
    (root / "data").mkdir(parents=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for split in ("train", "test"):
        held = pa.table(
            {
                "audio": pa.array(
                    [{"bytes": noise(n, split), "path": None} for n in range(ROWS)], kind
                ),
                "text": [f"{split} {number}" for number in range(ROWS)],
            }
        )
        path = root / f"data/{split}-00000-of-00001.parquet"
        parquet.write_table(held, path, row_group_size=4)
    handler = type("Handler", (Hub,), {"root": root, "sent": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def noise(number: int, split: str) -> bytes:
    random = np.random.default_rng((number, len(split)))
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * random.standard_normal(16_000), 16_000, format="FLAC")
    return buffer.getvalue()


def ask(address: str, home: Path, *names: str, **environment: str) -> dict:
    variables = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *names],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_rows_are_downloaded_or_streamed(hub, tmp_path):
    handler, address = hub
    size = (handler.root / "data/train-00000-of-00001.parquet").stat().st_size
    name = "hf:some/corpus?split=train"
    stream = name + "&streaming=true"
    found = ask(address, tmp_path / "home", stream, name)
    count, failed, path, sums = found[stream]
    assert (count, failed) == (ROWS, 0)
    assert path == f"hf://datasets/some/corpus@{COMMIT}/data/train-00000-of-00001.parquet"
    count, failed, path, downloaded = found[name]
    assert (count, failed) == (ROWS, 0)
    assert path.startswith(str(tmp_path / "home"))
    assert downloaded == sums
    # Streamed, each row group comes once; the other split, never.
    assert handler.sent.keys() == {"train-00000-of-00001.parquet"}
    assert handler.sent["train-00000-of-00001.parquet"] < 2.2 * size

    # What was downloaded needs no network; what was not, says so.
    handler.sent.clear()
    other = "hf:some/other"
    found = ask(address, tmp_path / "home", name, other, stream, HF_HUB_OFFLINE="1")
    assert found[name][-1] == sums, found[name]
    assert "HF_HUB_OFFLINE is set" in found[other]
    assert found[stream][0] == ROWS  # of the cache
    assert not handler.sent
