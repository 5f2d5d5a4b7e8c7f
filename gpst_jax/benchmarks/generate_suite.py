"""The suite `generate`: frames per second of decoding, ours against the peers.

For each number of threads and each batch size all cases, each in a process of its own, decode the
same prompts; on a CPU they are alive together and take turns, call by call.
"""

import dataclasses
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Column, Table

from gpst_jax.benchmarks import suite
from gpst_jax.benchmarks.generate_cases import COPY, OURS
from gpst_jax.benchmarks.suite import Measurement
from gpst_jax.benchmarks.traffic import Traffic
from gpst_jax.benchmarks.workload import Workload

ROWS = (1, 8, 32)


def frames_of(workload: Workload, rows: int) -> int:
    """Frames of a call: fewer of larger batches, so that all calls take about as long."""
    return min(workload.frames, max(8, 32 // max(rows // 4, 1)))


def thread_counts(threads: int) -> list[int]:
    """All processors and one of them; or what was asked for."""
    everything = len(os.sched_getaffinity(0))
    return [min(threads, everything)] if threads else sorted({everything, 1}, reverse=True)


def units_of_progress(cases: int, batches: int, threads: int, repeats: int) -> int:
    """How much `measure` tells `done` in all."""
    return cases * batches * threads * (1 + repeats)


def measure(
    cases: Sequence[str],
    base: Workload,
    batches: Sequence[int],
    repeats: int,
    *,
    frames: int = 0,
    together: bool,
    done: Callable[[int], None],
) -> dict[str, Any]:
    """Measures all cases; what `--json_out` holds, but for the machine's description.

    Args:
        cases: names out of `generate_cases.CASES`.
        base: dimensions and prompts; its `threads` as of `thread_counts`.
        batches: batch sizes.
        repeats: timed calls of each case, after two calls to compile and warm up.
        frames: of a call; 0: by `frames_of`.
        together: whether the cases of one batch size are alive at the same time.
        done: called `units_of_progress` times.

    Returns:
        `cases`; `bandwidth`, bytes per second of a copy by threads; `ratios`, of the first number
        of threads; `ratios_by_threads`; and `measured`, which is not for the file.
    """
    measured, found = [], []
    bandwidth: dict[str, float] = {}
    counts = thread_counts(base.threads)
    for threads in counts:
        group = []
        for rows in batches:
            work = dataclasses.replace(
                base.with_rows(rows), frames=frames or frames_of(base, rows), threads=threads
            )
            group += [(m, work) for m in _run(cases, work, repeats, together, done)]
        copies = [m.info["moved"] / m.step_s for m, _ in group if m.case == COPY and m.seconds]
        if copies:
            bandwidth[str(threads)] = max(copies)
        found += [
            summary(m, work, bandwidth.get(str(threads))) for m, work in group if m.case != COPY
        ]
        measured += [m for m, _ in group]
    by_threads = {str(threads): ratios(found, threads) for threads in counts}
    return {
        "cases": found,
        "bandwidth": bandwidth,
        "ratios": by_threads[str(counts[0])],
        "ratios_by_threads": by_threads,
        "measured": measured,
    }


def _run(cases, work: Workload, repeats: int, together: bool, done) -> list[Measurement]:
    found = []
    for group in [list(cases)] if together else [[case] for case in cases]:
        with suite.workers_of(group, work, done, "generate") as workers:
            for _ in range(repeats):
                for worker in workers:
                    if worker.alive:
                        worker.run(1)
                    done(1)
            found += [worker.measurement for worker in workers]
    return found


def summary(m: Measurement, work: Workload, bandwidth: float | None) -> dict[str, Any]:
    """One case, as in the JSON file; medians of its calls.

    Args:
        m: its calls.
        work: what each call decoded, T >= 2 frames of B rows.
        bandwidth: bytes per second of a copy with as many threads.
    """
    rows, frames, rate = work.rows, work.frames, work.layout.frame_rate
    case: dict[str, Any] = {"name": m.case, "rows": rows, "threads": work.threads}
    case |= {"frames": frames, "units": work.units, "error": m.error, "calls": len(m.seconds)}
    case |= {key: m.info.get(key) for key in ("parameters", "dtype", "platform", "build_s")}
    speeds = ("frames_per_s", "frames_per_s_min", "frames_per_s_max", "whole_frames_per_s")
    limits = ("bytes_per_frame", "limit_frames_per_s", "of_limit")
    others = ("real_time_factor", "first_audio_s", "call_s", "cpu_s", "peak_memory_bytes")
    case |= dict.fromkeys((*speeds, *others, *limits))
    if m.error is not None or not m.seconds:
        return case
    # Prefill and the first frame are not in the rest.
    per_s = [rows * m.info["rest_frames"] / seconds for seconds in m.rest_seconds]
    speed = statistics.median(per_s)
    case |= {
        "frames_per_s": speed,
        "frames_per_s_min": min(per_s),
        "frames_per_s_max": max(per_s),
        "whole_frames_per_s": rows * frames / m.step_s,
        "real_time_factor": rows * rate / speed,
        "first_audio_s": statistics.median(m.first_seconds),
        "call_s": m.step_s,
        "cpu_s": statistics.median(m.cpu_seconds),
        "peak_memory_bytes": m.memory,
    }
    if "traffic" in m.info:
        positions = work.units + 2 + frames / 2
        case["bytes_per_frame"] = Traffic(**m.info["traffic"]).bytes_per_frame(rows, positions)
        if bandwidth:
            case["limit_frames_per_s"] = bandwidth / case["bytes_per_frame"]
            case["of_limit"] = speed / case["limit_frames_per_s"]
    return case


def ratios(cases: Sequence[dict[str, Any]], threads: int) -> dict[str, dict[str, float | None]]:
    """Frames per second of ours over each peer's, by peer and batch; None where one failed."""
    speeds = {
        (case["name"], case["rows"]): case["frames_per_s"]
        for case in cases
        if case["threads"] == threads
    }
    found: dict[str, dict[str, float | None]] = {}
    for (name, rows), speed in speeds.items():
        if name != OURS:
            ours = speeds.get((OURS, rows))
            found.setdefault(name, {})[str(rows)] = ours / speed if ours and speed else None
    return found


def table(result: dict[str, Any]) -> Table:
    """The result as a table."""
    row = result["row"]
    made = Table(
        *("threads", "batch", Column("case", no_wrap=True), "params", "frames/s", "ours / case"),
        *("real-time factor", "first s", "MB/frame", "of limit", "peak GiB"),
        title=f"{result['size']}: {row['units']} units given, {row['codebooks']} codebooks",
    )
    for case in result["cases"]:
        cells = [str(case["threads"]), str(case["rows"]), case["name"]]
        if case["error"]:
            made.add_row(*cells, "failed")
            continue
        by_peer = result["ratios_by_threads"][str(case["threads"])].get(case["name"], {})
        ratio = by_peer.get(str(case["rows"]))
        limit = case["of_limit"]
        made.add_row(
            *cells,
            f"{case['parameters'] / 1e6:.1f}M",
            f"{case['frames_per_s']:.1f}",
            "" if ratio is None else f"{ratio:.2f}x",
            f"{case['real_time_factor']:.2f}",
            f"{case['first_audio_s']:.3f}",
            f"{case['bytes_per_frame'] / 1e6:.1f}",
            "" if limit is None else f"{limit:.0%}",
            f"{case['peak_memory_bytes'] / 2**30:.2f}",
        )
    return made


def lines(result: dict[str, Any]) -> list[str]:
    """Failures, and the bandwidths."""
    text = [
        f"{case['name']} at batch {case['rows']} failed: {case['error']}"
        for case in result["cases"]
        if case["error"]
    ]
    return text + [
        f"copying with {threads} threads, same run: {rate / 1e9:.1f} GB/s read and written"
        for threads, rate in result["bandwidth"].items()
    ]
