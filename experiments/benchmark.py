"""Benchmarks on this machine: training and decoding against other implementations; data.

    python -m experiments.benchmark --suite=train [--size=cpu|toy|gpst_190m|gpst_1b] \
        [--rows=4,8,16] [--steps=20] [--cases=ours,torch_eager] [--json_out=FILE]
    python -m experiments.benchmark --suite=generate [--size=cpu|toy|gpst_190m] [--rows=1,8,32] \
        [--steps=3] [--threads=1] [--cases=copy,ours,csm_eager] [--json_out=FILE]
    python -m experiments.benchmark --suite=data [--size=gpst_190m] [--scale=1] [--json_out=FILE]
    python -m experiments.benchmark --suite=gpu [--page=docs/benchmarks.md] [--minutes=9.5] \
        [--json_out=FILE]

The suite `generate` decodes greedily with ours and with CSM and MusicGen of Hugging Face in torch,
eager and compiled, with all processors and with one, and measures the bandwidth of memory.
The suite `data` measures tokenisation, loading (against what one host of a pod consumes), memory,
and packing 20 million records, all on synthetic data.
The suite `gpu` measures training, decoding and attention on one GPU within `--minutes`, writes each
result as it comes, goes on from there, and writes the section of `--page`.

In the suite `train` every case runs in a fresh process, with the same dimensions, tokens and
threads: our step (gpst_jax/training/step.py), Hugging Face's CSM in torch, eager and compiled, a
flattened decoder over all codes, and our step with local-drop or rematerialisation. Activations
are bfloat16 on an accelerator and float32 on a CPU. Protocols and results: docs/benchmarks.md.

Exit code 0, or 1 if our own step failed, or 3 if the suite `gpu` ran out of time; other cases that
fail are listed with their errors.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from data_pipeline.runtime.progress import progress
from experiments.common import load_config, load_layout
from gpst_jax.benchmarks import (
    data_suite,
    generate_cases,
    generate_suite,
    gpu_suite,
    suite,
    workload,
)
from gpst_jax.config import ConfigError

_SUITE = flags.DEFINE_enum(
    "suite", "train", ["train", "generate", "data", "gpu"], "What is measured."
)
_SCALE = flags.DEFINE_float(
    "scale", 1.0, "Suite data: fraction of its full size, for a quick look.", 0.0001, 1.0
)
_SIZE = flags.DEFINE_string(
    "size",
    None,
    "cpu (52M parameters), toy, or a config of experiments/configs. Default: cpu; of the suite "
    "data gpst_190m; of the suite gpu gpst_190m and gpst_1b.",
)
_ROWS = flags.DEFINE_list(
    "rows",
    [],
    "Utterances per step on one device; of several numbers each case of the suite train reports "
    "its best.",
)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Timed steps or calls of each case; 20 of training (suite gpu: 10), 3 of decoding.",
    lower_bound=1,
)
_FRAMES = flags.DEFINE_integer(
    "frames",
    0,
    "Suite generate: frames of a call, at least 2; 0: 32, 16 and 8 at batch 1, 8 and 32.",
    lower_bound=0,
)
_TURN = flags.DEFINE_integer(
    "turn", 2, "Steps that a case runs before the next one's turn.", lower_bound=1
)
_CASES = flags.DEFINE_list(
    "cases", [], "Which cases to run; default: all, but for csm_generate of the suite generate."
)
_SKIP = flags.DEFINE_list("skip", [], "Cases to leave out.")
_THREADS = flags.DEFINE_integer(
    "threads",
    0,
    "Processors of each case; 0: all of this process, and in the suite generate also one.",
    lower_bound=0,
)
_TOGETHER = flags.DEFINE_enum(
    "interleave",
    "auto",
    ["auto", "on", "off"],
    "Interleave the cases of a group; auto: for cpu and toy, which fit in memory together.",
)
_MINUTES = flags.DEFINE_float(
    "minutes", 9.5, "Suite gpu: time for all parts; 0: measure nothing, write --page.", 0.0
)
_PAGE = flags.DEFINE_string(
    "page",
    None,
    "Suite gpu: Markdown page whose section on GPUs is written from all results beside --json_out.",
)

_SMALL = ("cpu", "toy")


def load_workload(size: str, threads: int, *, remat: bool = False) -> workload.Workload:
    """The workload of `--size`.

    Args:
        size: `cpu`, `toy`, or a config.
        threads: of each case.
        remat: whether activations are rematerialised as the config says; else none are.

    Raises:
        UserError: there is no such size.
    """
    if size in _SMALL:
        made = workload.small(size)
    else:
        name = size if size.endswith(".py") else f"experiments.configs.{size}"
        config = load_config(name)
        kept = config.model.remat if remat else "none"
        made = workload.from_config(config, load_layout(name, config), rows=8, remat=kept)
    return dataclasses.replace(made, threads=threads)


def chosen_cases() -> list[str]:
    """Cases of the flags, in the order of the table.

    Raises:
        UserError: a name is unknown, or nothing is left.
    """
    by_suite = {"generate": generate_cases.CASES, "gpu": gpu_suite.CASES}
    known = by_suite.get(_SUITE.value, suite.CASES)
    default = [case for case in known if case != generate_cases.ON_REQUEST]
    unknown = sorted({*_CASES.value, *_SKIP.value} - set(known))
    if unknown:
        raise UserError(f"--cases: unknown {unknown[0]!r}; choose from {', '.join(known)}")
    wanted = set(_CASES.value or default) - set(_SKIP.value)
    if not wanted:
        raise UserError("--skip: no case is left; skip fewer")
    return [case for case in known if case in wanted]


def row_numbers(*default: int) -> list[int]:
    """The numbers of `--rows`.

    Raises:
        UserError: one of them is no positive integer.
    """
    try:
        numbers = [int(text) for text in _ROWS.value] or list(default)
    except ValueError as error:
        raise UserError(f"--rows: {error}; give numbers such as 4,8") from error
    if min(numbers) < 1:
        raise UserError(f"--rows: {min(numbers)} is not positive")
    return numbers


def _together() -> bool:
    return (
        (_SIZE.value or "cpu") in _SMALL if _TOGETHER.value == "auto" else _TOGETHER.value == "on"
    )


def _row(base: workload.Workload) -> dict[str, int]:
    return {
        "units": base.units,
        "frames": base.frames,
        "codebooks": base.layout.num_codebooks,
        "row_length": base.config.data.sequence_length,
    }


def run(base: workload.Workload, cases: list[str]) -> dict[str, Any]:
    """Measures and returns what `--json_out` holds."""
    together = _together()
    numbers, steps, turn = row_numbers(base.rows), _STEPS.value or 20, _TURN.value
    total = 1 + len(numbers) * suite.units_of_progress(len(cases), steps, turn)
    measured = []
    with progress("benchmark", total) as done:
        counted = suite.count_flops(base)
        done(1)
        for rows in numbers:
            work = base.with_rows(rows)
            measured += suite.measure(cases, work, steps, turn, together=together, done=done)
    found = suite.summarise(measured, lambda rows: base.with_rows(rows).frames_per_step)
    return {
        "suite": _SUITE.value,
        "size": _SIZE.value or "cpu",
        "row": _row(base),
        "interleaved": together,
        "machine": suite.machine(measured),
        "versions": suite.versions(),
        "cases": found,
        "ratios": suite.ratios(found),
        "flops": counted.info.get("counts"),
        "flops_error": counted.error,
    }


def show(result: dict[str, Any]) -> None:
    """Prints the result as tables."""
    console, machine, row = Console(), result["machine"], result["row"]
    table = Table(
        *("case", "rows", "params", "step s", "min", "frames/s", "ours / case", "GFLOP/s"),
        *("of matmul", "MFU", "peak GiB"),
        title=f"{result['size']}: rows of {row['units']} units and {row['frames']} frames "
        f"x {row['codebooks']} codebooks",
    )
    for case in result["cases"]:
        if case["error"]:
            table.add_row(case["name"], str(case["rows"]), "failed")
            continue
        ratio = result["ratios"].get(case["name"])
        table.add_row(
            case["name"],
            str(case["rows"]),
            f"{case['parameters'] / 1e6:.1f}M",
            f"{case['step_s']:.4g}",
            f"{case['step_s_min']:.4g}",
            f"{case['frames_per_s']:.1f}",
            "" if ratio is None else f"{ratio:.2f}x",
            f"{case['flops_per_s'] / 1e9:.0f}",
            "" if case["of_matmul_rate"] is None else f"{case['of_matmul_rate']:.0%}",
            "" if case["mfu"] is None else f"{case['mfu']:.1%}",
            f"{case['peak_memory_bytes'] / 2**30:.2f}",
        )
    console.print(table)
    for case in result["cases"]:
        if case["error"]:
            print(f"{case['name']} failed: {case['error']}")
    if machine["matmul_flops_per_s"]:
        rate = machine["matmul_flops_per_s"] / 1e9
        load = machine["load_average"][0]
        print(f"matrix products by JAX, same run: {rate:.0f} GFLOP/s; load average {load:.1f}")
    if result["flops"]:
        _show_flops(console, result["flops"])
    elif result["flops_error"]:
        print(f"FLOPs not counted: {result['flops_error']}")


def _show_flops(console: Console, counts: dict[str, Any]) -> None:
    table = Table("forward pass of one row", "formula GFLOP", "compiled", "saving", "compiled")
    for name, count in counts.items():
        if name == "saving":
            continue
        saving = counts["saving"].get(name)
        cells = [f"{count['formula'] / 1e9:.3f}", f"{count['compiled'] / 1e9:.3f}"]
        cells += [f"{saving[kind]:.2f}x" for kind in ("formula", "compiled")] if saving else []
        table.add_row(name, *cells)
    console.print(table)


def _run_data() -> int:
    size = _SIZE.value or "cpu"
    name = "gpst_190m" if size in _SMALL else size
    name = name if name.endswith(".py") else f"experiments.configs.{name}"
    try:
        config = load_config(name)
        layout = load_layout(name, config)
    except ConfigError as error:
        raise UserError(str(error)) from error
    with progress("benchmark", data_suite.units_of_progress()) as done:
        result = data_suite.measure(config, layout, _SCALE.value, done)
    print("\n".join(data_suite.lines(result)))
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return 0


def _run_gpu(cases: list[str]) -> int:
    path = Path(cli.JSON_OUT.value) if cli.JSON_OUT.value else gpu_suite.default_path()
    sizes = [_SIZE.value] if _SIZE.value else gpu_suite.SIZES
    workloads = {size: load_workload(size, _THREADS.value, remat=True) for size in sizes}
    rows, frames = row_numbers() if _ROWS.value else [], _FRAMES.value
    parts = gpu_suite.plan(workloads, cases, rows=rows, frames=frames, steps=_STEPS.value or 10)
    document = json.loads(path.read_text()) if path.exists() else gpu_suite.new_document()
    if _MINUTES.value and gpu_suite.missing(parts, document):
        gpu_suite.check_same_machine(document, path)
        with progress("benchmark", len(parts)) as done:
            gpu_suite.run(
                parts, document, lambda made: write_json(path, made), 60 * _MINUTES.value, done
            )
    stored = [json.loads(file.read_text()) for file in sorted(path.parent.glob("*.json"))]
    stored = [found for found in stored if found.get("suite") == "gpu"]
    if _PAGE.value:
        page = Path(_PAGE.value)
        write_text(page, gpu_suite.with_section(page.read_text(encoding="utf-8"), stored))
    print(gpu_suite.section([document]))
    left = gpu_suite.missing(parts, document)
    if left:
        print(f"not measured yet: {', '.join(left)}; the same command goes on")
    wrong = [e for e in document["parts"].values() if e["case"] == "ours" and e["error"]]
    if any(not entry["cut"] for entry in wrong):
        return exit_codes.DEFECT
    return exit_codes.PARTIAL if left else exit_codes.OK


def run_generate(base: workload.Workload, cases: list[str]) -> dict[str, Any]:
    """Measures decoding, prints it, and returns what `--json_out` holds.

    Raises:
        UserError: `--frames` is 1 or beyond the workload's.
    """
    frames = _FRAMES.value
    if frames == 1 or frames > base.frames:
        raise UserError(f"--frames: {frames} is not between 2 and {base.frames}, or 0")
    batches, repeats = row_numbers(*generate_suite.ROWS), _STEPS.value or 3
    counts = len(generate_suite.thread_counts(base.threads))
    total = generate_suite.units_of_progress(len(cases), len(batches), counts, repeats)
    with progress("benchmark", total) as done:
        found = generate_suite.measure(
            cases, base, batches, repeats, frames=frames, together=_together(), done=done
        )
    head = {"suite": _SUITE.value, "size": _SIZE.value or "cpu", "row": _row(base)}
    about = {"interleaved": _together(), "machine": suite.machine(found.pop("measured"))}
    result = head | about | {"versions": suite.versions()} | found
    console = Console()
    console.width = max(console.width, 120)  # also where the output is a file
    console.print(generate_suite.table(result))
    print("\n".join(generate_suite.lines(result)))
    return result


def main(argv: list[str]) -> int:
    """Measures, prints and writes; returns the exit code."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; everything is given by flags")
    if _SUITE.value == "data":
        return _run_data()
    cases = chosen_cases()
    try:
        if _SUITE.value == "gpu":
            return _run_gpu(cases)
        base = load_workload(_SIZE.value or "cpu", _THREADS.value)
    except ConfigError as error:
        raise UserError(str(error)) from error
    if _SUITE.value == "generate":
        result = run_generate(base, cases)
    else:
        result = run(base, cases)
        show(result)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    failed = [case["name"] for case in result["cases"] if case["error"]]
    return exit_codes.DEFECT if "ours" in failed else exit_codes.OK


if __name__ == "__main__":
    cli.run(main)
