"""JSON lines: `metrics.jsonl`, the record of a run that the other programs read.

One object a line, `{"step": int, "time": seconds, name: value, ...}`; a value that is not finite is
null.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from data_pipeline.runtime.buckets import access, location
from gpst_jax.trackers.base import NoMedia, Workdir

METRICS_FILE = "metrics.jsonl"


class JSONLinesTracker(NoMedia):
    """Appends to `metrics.jsonl` in the workdir, which is made when missing.

    On resume the lines beyond the restored step, and a last line cut short by a kill, are dropped,
    so that the file reads as if the run had never stopped.
    """

    def __init__(self, workdir: Workdir):
        self._path = Path(workdir) / METRICS_FILE
        self._file: TextIO | None = None

    def start(self, run_id: str, config: Mapping[str, Any], step: int) -> None:
        """See `Tracker`; step 0 truncates the file."""
        path = self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line, flushed to the file system when this returns.

        Raises:
            OSError: the disk refuses, or the file has vanished below the run.
        """
        assert self._file is not None, "write before start"
        os.stat(self._path)
        line: dict[str, float | None] = {"step": step, "time": round(time.time(), 3)}
        for name, value in values.items():
            line[name] = float(value) if math.isfinite(value) else None
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `Tracker`."""
        if self._file is not None:
            self._file.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a metrics file; a missing file is empty and a last line cut short is left out.

    Raises:
        ValueError: a line before the last is not JSON; the message names the file and line.
    """
    file = location(path)
    with access(path):
        if not file.exists():
            return []
        lines = file.read_text(encoding="utf-8").splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not a metrics line: {line!r}") from error
    return entries


def last_values(path: str | os.PathLike[str]) -> dict[str, float]:
    """The last finite value of each metric in a metrics file, from all restarts of the run."""
    last: dict[str, float] = {}
    for line in read_metrics(path):
        last |= {k: v for k, v in line.items() if k not in ("step", "time") and v is not None}
    return last
