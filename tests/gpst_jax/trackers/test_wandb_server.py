"""Weights & Biases online, with its real library against a server on this machine.

The server answers what the library asks at the start, during and at the end of a run, and keeps the
history, as far as the library of version 0.31 needs it.
"""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gpst_jax.trackers import make_trackers
from gpst_jax.trackers.base import TrackerGroup

KEY = "0123456789abcdef0123456789abcdef01234567"
RUN = "gpst-00c0ffee"
PROJECT = {"id": "p", "name": "speech", "entity": {"id": "e", "name": "team"}}


class Handler(BaseHTTPRequestHandler):
    """Answers for the run of `server.history`, a list of JSON lines."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self._answer({})

    def do_PUT(self):
        self._read()
        self._answer({})

    def do_POST(self):
        body = self._read()
        if not self.path.endswith(("/graphql", "/file_stream")):
            self._answer({})
            return
        sent = json.loads(body)
        if self.path.endswith("/graphql"):
            self._answer({"data": self._query(sent["query"], sent.get("variables", {}))})
            return
        lines = sent.get("files", {}).get("wandb-history.jsonl")
        if lines:
            self.server.history[lines["offset"] :] = lines["content"]
        self._answer({})

    def _query(self, query, variables):
        history = self.server.history
        bucket = {
            "id": "r",
            "name": RUN,
            "displayName": RUN,
            "config": "{}",
            "summaryMetrics": "{}",
            "historyLineCount": len(history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": "[]",
            "tags": [],
            "wandbConfig": json.dumps({"t": {"5": "0.31.0"}}),
            "project": PROJECT,
        }
        if "RunResumeStatus" in query:
            return {"model": PROJECT | {"bucket": bucket if history else None}}
        if "UpsertBucket" in query:
            self.server.runs.append(variables)
            return {"upsertBucket": {"bucket": bucket, "inserted": not history}}
        if "CreateRunFiles" in query:
            url = f"http://127.0.0.1:{self.server.server_port}/"
            files = [{"name": name, "uploadUrl": url + name} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _read(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, values):
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.history, served.runs = [], []
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_PROJECT", "speech")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    wandb.teardown()  # it reads the environment once in a process
    yield served
    wandb.teardown()
    served.shutdown()
    served.server_close()


def start(workdir, step):
    group = TrackerGroup(make_trackers(workdir, ["wandb"])[1:])
    group.start(RUN, {"name": "run"}, step)
    return group


def test_the_history_of_the_server_goes_on(server, tmp_path, caplog):
    group = start(tmp_path, 0)
    for step in range(1, 8):
        group.write(step, {"train/loss": 1 / step})
    group.close()
    assert [json.loads(line)["_step"] for line in server.history] == [1, 2, 3, 4, 5, 6]
    del server.history[5:]  # the last line was lost on its way
    for restored, last in ((6, 9), (8, 12)):
        group = start(tmp_path, restored)
        for step in range(restored + 1, last + 1):
            group.write(step, {"train/loss": 1 / step})
        group.saved(last)
        group.close()
    rows = [json.loads(line) for line in server.history]
    assert [row["_step"] for row in rows] == list(range(1, 13))
    assert [row["train/loss"] for row in rows] == [1 / step for step in range(1, 13)]
    assert {(run["name"], run["project"]) for run in server.runs} == {(RUN, "speech")}
    assert not caplog.text.count("goes on without it")
    assert KEY not in caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_without_an_answer_the_run_is_kept_offline(server, tmp_path, caplog):
    server.shutdown()
    server.server_close()
    group = start(tmp_path, 0)
    group.write(1, {"train/loss": 1.0})
    group.saved(1)
    group.close()
    (line,) = [line for line in caplog.messages if "offline, in" in line]
    assert "wandb sync" in line
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{RUN}"))
