"""Shared by demos and studies: running programs one after another, and reading their results."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.process_pool import KEEP_MEMORY
from experiments.config_flags import ConfigFlag

_ROOT = Path(__file__).resolve().parents[1]
# Fields of a run in the demos' small form, unless the command line has others.
SMOKE_TRAINING = ("train.steps=30", "optimizer.warmup_steps=5")


class Timings:
    """Runs steps and accumulates the seconds of each in a file, over restarts.

    Args:
        path: JSON file of seconds by step.
    """

    def __init__(self, path: Path):
        self._path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    def run(self, step: str, call: list[str], accept: tuple[int, ...] = (exit_codes.OK,)) -> None:
        """Runs a module in a process of its own; exits if its exit code is not accepted."""
        print(f"\n[{step}] python -m {shlex.join(call)}", flush=True)
        started = time.monotonic()
        try:
            environment = _environment(training=call[0] == "experiments.pretrain")
            code = subprocess.run([sys.executable, "-m", *call], env=environment).returncode
        except KeyboardInterrupt:
            print("\nInterrupted: run the same command again to resume.")
            sys.exit(exit_codes.SIGINT)
        finally:
            spent = time.monotonic() - started
            self.seconds[step] = self.seconds.get(step, 0.0) + spent
            write_json(self._path, self.seconds)
        if code not in accept:
            print(f"[{step}] failed with exit code {code}: see above; run again to resume.")
            sys.exit(code)
        print(f"[{step}] {spent:.1f} s", flush=True)

    def rounded(self) -> dict[str, float]:
        """Seconds by step, rounded for the report."""
        return {step: round(seconds, 1) for step, seconds in self.seconds.items()}

    def finish(self, workdir: Path) -> None:
        """Prints the total time and where the results are."""
        print(f"\nThe demo took {sum(self.seconds.values()) / 60:.1f} minutes.")
        print(f"Numbers: {workdir / 'report.json'}\nListen:  {workdir / 'report.html'}")


def check_config(config: ConfigFlag) -> None:
    """Raises UserError unless a flag names a configuration for the data that a demo makes."""
    config.refuse("data.path", "the demo makes the dataset itself")
    config.load()


def _environment(training: bool) -> dict[str, str]:
    # Speech processing is many small transforms, which OpenMP threads only slow down.
    defaults = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | (KEEP_MEMORY if training else {})
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # from any directory
    return defaults | dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}


def read_json(path: Path) -> dict:
    """The object in a JSON file."""
    return json.loads(path.read_text())


def read_scores(path: Path, condition: str) -> list[dict[str, Any]]:
    """Scores of a condition's items from a file of `evaluate --items_out`, sorted by id."""
    items = map(json.loads, path.read_text().splitlines())
    scores = [item for item in items if item["condition"] == condition]
    return sorted(scores, key=lambda item: item["id"])


def word_errors(items: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """Errors and reference words of each item."""
    counts = [item["errors"] for item in items]
    kinds = ("substitutions", "deletions", "insertions")
    return [sum(count[kind] for kind in kinds) for count in counts], [c["words"] for c in counts]
