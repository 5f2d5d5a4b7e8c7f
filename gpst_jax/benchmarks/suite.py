"""Runs the cases of a benchmark, each in a new process, and collects their results.

On a CPU the cases of a group are alive together and alternate every few steps, so that other load
on the machine affects all of them alike. On accelerators cases run one at a time, for memory.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_pipeline.runtime.process_pool import KEEP_MEMORY
from gpst_jax.benchmarks.workload import Workload

# Peers share a group with our step; its variants are compared with each other.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("matmul", "ours", "torch_eager", "torch_compile"),
    ("ours_drop_0.5", "ours_drop_0.9375"),
    ("ours_remat_dots", "ours_remat_full"),
    ("flattened",),
)
CASES: tuple[str, ...] = tuple(case for group in GROUPS for case in group)
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "numpy", "triton")
_CUDA_LIBRARIES = (
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)

# JAX takes three quarters of a GPU's memory by default, torch what it needs.
_WHOLE_CARD = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}


@dataclasses.dataclass
class Measurement:
    """Result of one case at one batch size."""

    case: str
    rows: int
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)
    memory: int = 0
    error: str | None = None
    first_seconds: list[float] = dataclasses.field(default_factory=list)  # suite generate
    rest_seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def step_s(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.seconds)


class Worker:
    """The process of one case (gpst_jax/benchmarks/worker.py)."""

    def __init__(
        self,
        case: str,
        workload: Workload,
        environment: Mapping[str, str] | None = None,
        suite: str = "train",
    ):
        self.measurement = Measurement(case, workload.rows)
        environment = KEEP_MEMORY | os.environ | {"HF_HUB_OFFLINE": "1"} | dict(environment or {})
        if workload.threads:
            environment["OMP_NUM_THREADS"] = str(workload.threads)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpst_jax.benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self._send({"suite": suite, "case": case, "workload": workload.to_json()})

    def await_start(self) -> None:
        """Waits until the case is built and warm; then `measurement.info` is known."""
        self.measurement.info = self._receive() or {}

    @property
    def alive(self) -> bool:
        """Whether the case has not failed."""
        return self.measurement.error is None

    def run(self, steps: int) -> None:
        """Times `steps` further steps."""
        self._send({"steps": steps})
        reply = self._receive()
        if reply is not None:
            self.measurement.seconds += reply["seconds"]
            self.measurement.cpu_seconds += reply["cpu_seconds"]
            self.measurement.first_seconds += reply["first_seconds"]
            self.measurement.rest_seconds += reply["rest_seconds"]
            self.measurement.memory = reply["memory"]

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any] | None:
        """The reply; None, with `measurement.error` set, where the case failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": self._last_words()}
        if "error" in reply:
            self.measurement.error = reply["error"]
            return None
        return reply

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        last = lines[-1][:300] if lines else "no message"
        return f"the process ended with code {code}: {last}"

    def kill(self) -> None:
        """Ends the process at once; what waits for its reply then sees that it failed."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()
        self._log.close()


@contextlib.contextmanager
def workers_of(
    cases: Sequence[str], workload: Workload, done: Callable[[int], None], suite: str = "train"
) -> Iterator[list[Worker]]:
    """The processes of several cases, alive together; `done(1)` after each has started.

    Those of training start one after another, since their start is part of what is reported.
    """
    with contextlib.ExitStack() as stack:
        workers = []
        for case in cases:
            worker = Worker(case, workload, suite=suite)
            stack.callback(worker.close)
            workers.append(worker)
            if suite == "train":
                worker.await_start()
                done(1)
        if suite != "train":
            for worker in workers:
                worker.await_start()
                done(1)
        yield workers


def measure(
    cases: Sequence[str],
    workload: Workload,
    steps: int,
    turn: int,
    *,
    together: bool,
    done: Callable[[int], None],
) -> list[Measurement]:
    """Times every case.

    Args:
        cases: names out of `CASES`.
        workload: what each of them computes.
        steps: timed steps of each case, after a warm-up of two.
        turn: steps of a case before the next case of its group takes over.
        together: whether cases of a group are alive at the same time.
        done: called after each start and each turn, `units_of_progress` times in all.

    Returns:
        One measurement per case, in the same order; a case that failed has `error`.
    """
    groups = [[case for case in group if case in cases] for group in GROUPS]
    if not together:
        groups = [[case] for group in groups for case in group]
    found: dict[Any, Any] = {}
    for group in filter(None, groups):
        with workers_of(group, workload, done) as workers:
            for start in range(0, steps, turn):
                for worker in workers:
                    if worker.alive:
                        worker.run(min(turn, steps - start))
                    done(1)
            found |= {worker.measurement.case: worker.measurement for worker in workers}
    return [found[case] for case in cases]


def measure_alone(
    case: str, workload: Workload, repeats: int, *, suite: str, seconds: float
) -> tuple[Measurement, bool]:
    """Times one case, for at most so many seconds with its start.

    Args:
        case: of the suite.
        workload: what it computes.
        repeats: timed steps or calls, after a warm-up of two.
        suite: `train` or `generate`.
        seconds: after which the process is killed; the repeats that were timed until then count.

    Returns:
        The measurement, and whether the time was up before the first repeat had ended.
    """
    worker = Worker(case, workload, _WHOLE_CARD | os.environ, suite=suite)
    up = threading.Event()

    def end() -> None:
        up.set()
        worker.kill()

    clock = threading.Timer(seconds, end)
    clock.start()
    try:
        worker.await_start()
        for _ in range(repeats):
            if worker.alive:
                worker.run(1)
    finally:
        clock.cancel()
        worker.close()
    measured = worker.measurement
    if up.is_set():
        measured.error = None if measured.seconds else f"not done after {seconds:.0f} s"
    return measured, up.is_set() and not measured.seconds


def count_flops(workload: Workload) -> Measurement:
    """Formula and compiled FLOPs in `info["counts"]`: see gpst_jax/benchmarks/flops.py.

    The program is compiled for the CPU, where matmuls are not custom calls of a vendor library.
    """
    worker = Worker("flops", workload, {"JAX_PLATFORMS": "cpu"})
    worker.await_start()
    worker.close()
    return worker.measurement


def units_of_progress(cases: int, steps: int, turn: int) -> int:
    """How much `measure` tells `done` in all."""
    return cases * (1 + -(-steps // turn))


def summarise(
    measured: Sequence[Measurement], frames_per_step: Callable[[int], int]
) -> list[dict[str, Any]]:
    """The cases as in the JSON file; of several batch sizes the fastest counts."""
    cases = []
    matmul = next((m for m in measured if m.case == "matmul" and m.seconds), None)
    rate = matmul.info["flops"] / matmul.step_s if matmul else None
    peak = matmul.info["peak_flops"] if matmul else None
    names = list(dict.fromkeys(m.case for m in measured if m.case != "matmul"))
    for name in names:
        tried = [_case(m, frames_per_step(m.rows), rate, peak) for m in measured if m.case == name]
        best = max(tried, key=lambda case: case["frames_per_s"] or 0.0)
        keys = ("rows", "frames_per_s", "peak_memory_bytes", "error")
        if len(tried) > 1:
            best["sweep"] = [{key: case[key] for key in keys} for case in tried]
        cases.append(best)
    return cases


def _case(m: Measurement, frames: int, rate: float | None, peak: float | None) -> dict[str, Any]:
    case: dict[str, Any] = {"name": m.case, "rows": m.rows, "error": m.error}
    case |= {key: m.info.get(key) for key in ("parameters", "flops", "dtype", "threads", "loss")}
    case |= {"build_s": m.info.get("build_s"), "steps": len(m.seconds)}
    names = ("frames_per_s", "step_s", "step_s_min", "step_s_max", "cpu_s", "flops_per_s", "mfu")
    case |= dict.fromkeys((*names, "of_matmul_rate", "peak_memory_bytes"))
    if m.error is not None or not m.seconds:
        return case
    speed = m.info["flops"] / m.step_s
    case |= {
        "frames_per_s": frames / m.step_s,
        "step_s": m.step_s,
        "step_s_min": min(m.seconds),
        "step_s_max": max(m.seconds),
        "cpu_s": statistics.median(m.cpu_seconds),
        "flops_per_s": speed,
        "mfu": speed / peak if peak else None,
        "of_matmul_rate": speed / rate if rate else None,
        "peak_memory_bytes": m.memory,
    }
    return case


def ratios(cases: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Throughput of our step over that of each other case; None where either failed."""
    speeds = {case["name"]: case["frames_per_s"] for case in cases}
    ours = speeds.get("ours")
    return {
        name: ours / speed if ours and speed else None
        for name, speed in speeds.items()
        if name != "ours"
    }


def machine(measured: Sequence[Measurement]) -> dict[str, Any]:
    """The machine; `matmul_flops_per_s` is the rate that JAX reached in this run."""
    matmul = next((m for m in measured if m.case == "matmul" and m.seconds), None)
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load_average": list(os.getloadavg()),
        "device": matmul.info["device"] if matmul else None,
        "peak_flops": matmul.info["peak_flops"] if matmul else None,
        "matmul_flops_per_s": matmul.info["flops"] / matmul.step_s if matmul else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
