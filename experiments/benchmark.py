"""Benchmarks on this machine: the train step against other implementations, or the data pipeline.

    python -m experiments.benchmark --suite=train [--size=cpu|toy|gpst_190m|gpst_1b] \
        [--rows=4,8,16] [--steps=20] [--cases=ours,torch_eager] [--json_out=FILE]
    python -m experiments.benchmark --suite=data [--size=gpst_190m] [--scale=1] [--json_out=FILE]

The suite `data` measures tokenisation, loading (against what one host of a pod consumes), memory,
and packing 20 million records, all on synthetic data.

In the suite `train` every case runs in a fresh process, with the same dimensions, tokens and
threads: our step (gpst_jax/training/step.py), Hugging Face's CSM in torch, eager and compiled, a
flattened decoder over all codes, and our step with local-drop, rematerialisation, or unrolled
layers. Activations are bfloat16 on an accelerator and float32 on a CPU. Protocol and results of
both: docs/benchmarks.md.

Exit code 0, or 1 if our own step failed; other cases that fail are listed with their errors.
"""

import dataclasses
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.progress import progress
from experiments.common import load_config, load_layout
from gpst_jax.benchmarks import data_suite, suite, workload
from gpst_jax.config import ConfigError

_SUITE = flags.DEFINE_enum("suite", "train", ["train", "data"], "What is measured.")
_SCALE = flags.DEFINE_float(
    "scale", 1.0, "Suite data: fraction of its full size, for a quick look.", 0.0001, 1.0
)
_SIZE = flags.DEFINE_string(
    "size", "cpu", "cpu (52M parameters), toy, or a config of experiments/configs."
)
_ROWS = flags.DEFINE_list(
    "rows", [], "Utterances per step on one device; of several numbers each case reports its best."
)
_STEPS = flags.DEFINE_integer("steps", 20, "Timed steps of each case.", lower_bound=1)
_TURN = flags.DEFINE_integer(
    "turn", 2, "Steps that a case runs before the next one's turn.", lower_bound=1
)
_CASES = flags.DEFINE_list("cases", list(suite.CASES), "Which cases to run.")
_SKIP = flags.DEFINE_list("skip", [], "Cases to leave out.")
_THREADS = flags.DEFINE_integer(
    "threads", 0, "Processors of each case; 0: all that this process may use.", lower_bound=0
)
_TOGETHER = flags.DEFINE_enum(
    "interleave",
    "auto",
    ["auto", "on", "off"],
    "Interleave the cases of a group; auto: for cpu and toy, which fit in memory together.",
)

_SMALL = ("cpu", "toy")


def load_workload(size: str, threads: int) -> workload.Workload:
    """The workload of `--size`.

    Raises:
        UserError: there is no such size.
    """
    if size in _SMALL:
        made = workload.small(size)
    else:
        name = size if size.endswith(".py") else f"experiments.configs.{size}"
        config = load_config(name)
        made = workload.from_config(config, load_layout(name, config), rows=8)
    return dataclasses.replace(made, threads=threads)


def chosen_cases() -> list[str]:
    """Cases of the flags, in the order of the table.

    Raises:
        UserError: a name is unknown, or nothing is left.
    """
    unknown = sorted({*_CASES.value, *_SKIP.value} - set(suite.CASES))
    if unknown:
        raise UserError(f"--cases: unknown {unknown[0]!r}; choose from {', '.join(suite.CASES)}")
    cases = [c for c in suite.CASES if c in _CASES.value and c not in _SKIP.value]
    if not cases:
        raise UserError("--skip: no case is left; skip fewer")
    return cases


def row_numbers(default: int) -> list[int]:
    """The numbers of `--rows`.

    Raises:
        UserError: one of them is no positive integer.
    """
    try:
        numbers = [int(text) for text in _ROWS.value] or [default]
    except ValueError as error:
        raise UserError(f"--rows: {error}; give numbers such as 4,8") from error
    if min(numbers) < 1:
        raise UserError(f"--rows: {min(numbers)} is not positive")
    return numbers


def run(base: workload.Workload, cases: list[str]) -> dict[str, Any]:
    """Measures and returns what `--json_out` holds."""
    together = _SIZE.value in _SMALL if _TOGETHER.value == "auto" else _TOGETHER.value == "on"
    numbers, steps, turn = row_numbers(base.rows), _STEPS.value, _TURN.value
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
        "size": _SIZE.value,
        "row": {
            "units": base.units,
            "frames": base.frames,
            "codebooks": base.layout.num_codebooks,
            "row_length": base.config.data.sequence_length,
        },
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
    name = "gpst_190m" if _SIZE.value in _SMALL else _SIZE.value
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


def main(argv: list[str]) -> int:
    """Measures, prints and writes; returns the exit code."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; everything is given by flags")
    if _SUITE.value == "data":
        return _run_data()
    cases = chosen_cases()
    try:
        base = load_workload(_SIZE.value, _THREADS.value)
    except ConfigError as error:
        raise UserError(str(error)) from error
    result = run(base, cases)
    show(result)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    failed = [case["name"] for case in result["cases"] if case["error"]]
    return exit_codes.DEFECT if "ours" in failed else exit_codes.OK


if __name__ == "__main__":
    cli.run(main)
