"""Runs the cells of a study: each program in a process of its own, what is done not repeated."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.process_pool import KEEP_MEMORY
from data_pipeline.runtime.progress import format_duration
from experiments import child_programs
from experiments.common import load_config
from gpst_jax.checkpoints.record import code_version
from gpst_jax.studies import page, records
from gpst_jax.studies.definition import TRAIN, Call, Cell, Study

_STATE = "steps.json"
_SHARED = "shared"
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")
_DATASET = "dataset.json"
# Speech processing is many small transforms, which OpenMP threads only slow down.
_SPEECH = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Interrupted(Exception):
    """A signal ended a program: the same command goes on."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A cell that has no result, and why."""

    cell: str
    seed: int
    reason: str


class Runner:
    """Runs cells of one study in a directory that this process has claimed.

    Args:
        study: what is run.
        file: the file that defines it, as the page names it.
        workdir: directory of runs, samples and logs.
        inputs: name -> path of what the study needs.
        results: where records of finished cells are.
    """

    def __init__(
        self,
        study: Study,
        file: str,
        workdir: Path,
        inputs: Mapping[str, str],
        results: records.Results,
    ):
        self._study, self._file, self._workdir = study, file, workdir
        self._inputs, self._results = dict(inputs), results
        self._prints = {name: fingerprint(path) for name, path in inputs.items()}
        self._programs = workdir / _SHARED / "programs"  # compiled ones, which cells have in common
        self._commit = code_version()  # of the code that runs, whatever is committed meanwhile

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the inputs, by name."""
        return dict(self._prints)

    def run(self, todo: list[tuple[Cell, int]]) -> list[Failure]:
        """Runs cells one after another; a failed one does not keep the others from being run.

        Args:
            todo: cells and seeds without a record.

        Returns:
            The cells that failed.

        Raises:
            Interrupted: a signal to stop came; finished steps are kept.
        """
        # Those of an earlier call may be for another machine.
        shutil.rmtree(self._programs, ignore_errors=True)
        failures: list[Failure] = []
        spent: list[tuple[float, float]] = []  # seconds and weight of the cells done here
        weights = [self._weight(cell, seed) for cell, seed in todo]
        for number, (cell, seed) in enumerate(todo):
            left = _time_left(spent, weights[number:])
            print(f"[{number + 1}/{len(todo)}] {cell.name}, seed {seed}{left}", flush=True)
            started = time.monotonic()
            try:
                path = self._cell(cell, seed)
            except UserError as error:
                failures.append(Failure(cell.name, seed, str(error)))
                print(f"    failed: {error}", flush=True)
                continue
            spent.append((time.monotonic() - started, weights[number]))
            print(f"    recorded: {path}", flush=True)
        return failures

    def _weight(self, cell: Cell, seed: int) -> float:
        """What a cell costs beside the others: its training FLOPs where they are known."""
        return page.cell_flops(self._study, cell, seed, load_config) or 1.0

    def _cell(self, cell: Cell, seed: int) -> Path:
        """Runs a cell's programs that are not done, and writes its record."""
        directory, shared = self._workdir / f"{cell.name}-{seed}", self._workdir / _SHARED
        made_with = records.definition(cell, seed, load_config)
        names = {
            **self._inputs,
            "cell": str(directory),
            "shared": str(shared),
            "seed": str(seed),
        }
        tokens = Path(cell.tokens.format(**names)) if cell.config else None
        own = _State(directory, {"hash": records.config_hash(made_with), "inputs": self._prints})
        common = _State(shared, {"inputs": self._prints})
        for call in cell.steps():
            state = common if call in cell.prepare else own
            filled = [flag.format(**names) for flag in call.flags]
            self._step(call, filled, state)
        scores = {figure.key: figure.read(directory) for figure in self._study.figures}
        inputs = dict(self._prints)
        if tokens is not None and str(tokens) not in self._inputs.values():
            inputs["trained_on"] = fingerprint(str(tokens))
        record = {
            "version": records.VERSION,
            "study": self._study.name,
            "cell": cell.name,
            "seed": seed,
            "config_hash": records.config_hash(made_with),
            "command": page.command(self._file, self._study)
            + f" --cells={cell.name} --seeds={seed}",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(directory / f"{TRAIN}.log"),
            "versions": versions(),
            "commit": self._commit,
            "inputs": inputs,
            "cost": {
                "training_flops": page.cell_flops(self._study, cell, seed, load_config),
                "seconds_of_training": own.seconds.get(TRAIN),
            },
            "seconds": own.seconds,
            "scores": scores,
            "definition": made_with,
        }
        return self._results.write(cell.name, seed, record)

    def _step(self, call: Call, flags: list[str], state: "_State") -> None:
        """Runs a program to its end, unless it is done."""
        done = [call.program, *flags]
        if state.is_done(call.step, done):
            return
        log = state.directory / f"{call.step}.log"
        with child_programs.held(log) as held:
            started = time.monotonic()
            print(f"    {call.step}: {call.program}, log: {log}", flush=True)
            defaults = dict(KEEP_MEMORY if call.step == TRAIN else _SPEECH)
            defaults["JAX_COMPILATION_CACHE_DIR"] = str(self._programs.resolve())
            command = [sys.executable, "-m", call.program, *flags]
            code, stopped = child_programs.run(command, held, defaults)
        state.add(call.step, time.monotonic() - started, done if code in call.accept else None)
        print(f"    {call.step}: {format_duration(time.monotonic() - started)}", flush=True)
        if code in call.accept:
            return
        if stopped or code == exit_codes.INTERRUPTED:
            raise Interrupted
        raise UserError(f"{call.step}: exit code {code}: {child_programs.last_words(log)}")


class _State:
    """Which steps are done in a directory, and the seconds that each has taken over restarts.

    Args:
        directory: of a cell, or what cells share; made if missing.
        about: what is run there.

    Raises:
        UserError: it holds the work of something else.
    """

    def __init__(self, directory: Path, about: dict[str, Any]):
        self.directory, self._path = directory, directory / _STATE
        directory.mkdir(parents=True, exist_ok=True)
        self._state: dict[str, Any] = {"about": about, "done": {}, "seconds": {}}
        if self._path.exists():
            self._state = json.loads(self._path.read_text(encoding="utf-8"))
            if self._state["about"] != about:
                raise UserError(
                    f"{directory}: holds the work of another configuration or of other inputs: "
                    "remove it, or give another --workdir"
                )
        write_json(self._path, self._state)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by step."""
        return {step: round(value, 1) for step, value in self._state["seconds"].items()}

    def is_done(self, step: str, command: list[str]) -> bool:
        """Whether a step is done; raises UserError where it was another program."""
        found = self._state["done"].get(step)
        if found is not None and found != command:
            raise UserError(
                f"{self.directory}: its step {step} was done by another command: remove the "
                "directory, or give another --workdir"
            )
        return found is not None

    def add(self, step: str, seconds: float, done: list[str] | None) -> None:
        """Remembers that a step has been run, and whether it is done."""
        before = self._state["seconds"].get(step, 0.0)
        self._state["seconds"][step] = before + seconds
        if done is not None:
            self._state["done"][step] = done
        write_json(self._path, self._state)


def _time_left(spent: list[tuple[float, float]], weights: list[float]) -> str:
    """The time that the remaining cells will take, as the finished ones did; empty at first."""
    if not spent:
        return ""
    rate = sum(seconds for seconds, _ in spent) / sum(weight for _, weight in spent)
    return f", about {format_duration(rate * sum(weights))} left"


def fingerprint(path: str) -> str:
    """SHA-256 that tells an input from others: a dataset's own, or of names, sizes and contents.

    Of a run it is that of its newest checkpoint's records, of a folder of recordings that of the
    names and sizes of all files. Equal on every machine.

    Raises:
        UserError: there is nothing at the path.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"{path}: no such file or directory")
    if (root / _DATASET).is_file():
        return str(json.loads((root / _DATASET).read_text(encoding="utf-8"))["fingerprint"])
    if (root / "checkpoints").is_dir():
        steps = [one for one in (root / "checkpoints").iterdir() if one.name.isdigit()]
        if steps:
            root = max(steps, key=lambda one: int(one.name))
    digest = hashlib.sha256()
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    for file in files:
        name = file.relative_to(root).as_posix() if file != root else file.name
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        if file.suffix in (".json", ".jsonl", ".csv"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def machine(log: Path) -> str:
    """The processor and cores of this machine, and the devices that a run has printed."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", cpus.read_text(), re.MULTILINE)
        model = named[1].strip() if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = ""
    if log.exists():
        printed = re.findall(r"^devices: (\d+ x .+) in \d+ process", log.read_text(), re.MULTILINE)
        devices = f", {printed[-1]}" if printed and "cpu" not in printed[-1].lower() else ""
    return f"{cores} cores of {model}{devices}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    found = {"Python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}
