"""Compiles the pod configurations for their slices and writes docs/pods.md.

    python -m experiments.pods_table

Each case runs `experiments.compile` in a process of its own, for some minutes, and writes
`docs/pods/CASE.json`; cases with such a file are not compiled again, so an interrupted table
resumes. After a change of its train step, delete a case's file, or add a `note` to it, which the
page shows until the case is compiled again.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.files import write_text
from data_pipeline.runtime.progress import progress
from gpst_jax.config.overrides import from_flags

_OUTPUT = flags.DEFINE_string("output", "docs", "Directory of pods.md and pods/.")
_ONLY = flags.DEFINE_string("only", "", "Regular expression of the cases to compile; default: all.")


class Case(NamedTuple):
    """One row of the table."""

    config: str
    topology: str
    num_slices: int
    rows_per_chip: int
    settings: tuple[str, ...] = ()
    variant: str = ""  # what tells it from the configuration itself

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return f"{self.config}, {self.variant}" if self.variant else self.config

    @property
    def name(self) -> str:
        """Name of the case and of its file."""
        place = self.topology.replace(":", "-")
        parts = [self.config, *([self.variant] if self.variant else [])]
        return "-".join([*parts, f"{self.num_slices}x{place}"])

    @property
    def flags(self) -> list[str]:
        """The flags for `experiments.compile`."""
        return [
            f"--config=experiments/configs/{self.config}.py",
            f"--topology={self.topology}",
            f"--num_slices={self.num_slices}",
            f"--rows_per_chip={self.rows_per_chip}",
            *(f"--config.{setting}" for setting in self.settings),
        ]


def _patterns() -> Iterator[Case]:
    """The published size in the patterns of `study_files/pods/pattern.py`."""
    settings = {
        # A crop of 10 s is one line of 6,656 positions.
        "flat": ("model.pattern=flat", "model.max_positions=6656"),
        "delay": ("model.pattern=delay",),
        "parallel": ("model.pattern=parallel",),
    }
    for variant, fields in settings.items():
        yield Case("gpst_190m", "v5e:4x4", 1, 1, fields, variant)
        yield Case("gpst_190m", "v6e:4x4", 2, 1, fields, variant)


# Configurations on several kinds of chips and slices, and weak scaling (equal work per chip).
CASES = (
    Case("gpst_190m", "v5e:4x4", 1, 1),
    Case("gpst_1b", "v5p:2x2x4", 1, 1),
    Case("gpst_1b", "v5p:4x8x8", 1, 1),
    Case("gpst_1b", "v5p:4x8x8", 2, 1),
    Case("gpst_1b", "v5p:8x16x16", 1, 1),
    Case("gpst_1b", "v5e:16x16", 1, 1),
    Case("gpst_1b", "v6e:8x8", 1, 1),
    Case("gpst_7b", "v5p:8x8x8", 1, 2),
    Case("gpst_3b", "v5p:4x4x8", 1, 4),
    Case("gpst_hires_207m", "v5e:4x4", 1, 1),
    Case("gpst_3b", "v6e:16x16", 1, 4, ("model.remat=full",)),
    Case("gpst_3b", "v5e:16x16", 1, 1),
    Case("gpst_7b", "v6e:16x16", 2, 2, ("model.remat=full",)),
    Case("gpst_7b", "v5e:16x16", 1, 1, ("model.remat=full",)),
    Case("gpst_190m", "v5p:2x2x4", 1, 1),
    Case("gpst_190m", "v6e:4x4", 1, 1),
    Case("gpst_hires_207m", "v5p:2x2x4", 1, 1),
    Case("gpst_hires_207m", "v6e:4x4", 1, 1),
    Case("coig_flow_1b", "v5p:2x2x4", 1, 16),
    Case("coig_lm_7b", "v5p:4x4x8", 1, 4),
    # The configuration's 256 rows with all frames of a row at once, and with all rows at once too.
    Case("gpst_1b", "v6e:8x8", 1, 1, ("model.local_chunk=0",), "unchunked"),
    Case("gpst_1b", "v6e:8x8", 1, 4, ("model.local_chunk=0", "train.grad_accum_steps=1"), "whole"),
    *_patterns(),
)

_HEAD = """\
# Memory and roofline by pod

Every figure on this page is **compile-only**: the train step that `experiments.pretrain` runs was
compiled by the TPU compiler for the given topology, on a machine without a TPU, and memory, FLOPs
and collectives were read from the compiled program. No step was timed. The roofline step time is
the maximum of four times, assuming perfect overlap: matrix products over the chip's peak FLOP/s,
HBM traffic over HBM bandwidth, and the bytes of collectives over the bandwidth of the links
between chips (ICI) and between slices (DCN); the rates are in `gpst_jax/parallel/chips.py`. The
MFU ceiling is the model FLOPs (the objective's `flops`) over that time and the peak; a real run
stays below it. HBM traffic is an upper bound: it counts every operand that the compiler did not
place in on-chip memory, without the padding of tiles. Cases without traffic by cause were compiled
with an earlier form of the local transformer and of activations on TPUs, and when what an update
in place replaces was counted as read as well (9 % of `gpst_190m` on v6e:4x4).

Generated by `python -m experiments.pods_table`; a single case, with its collectives:

    python -m experiments.compile --config=experiments/configs/gpst_1b.py --topology=v5p:2x2x4 \\
        --rows_per_chip=1

"""

_CAUSES = """
`gpst_1b` on v6e:8x8 with its 256 rows: all at once 399 GB a step, in four micro-batches 267 GB,
and with the frames of a row in four chunks besides (`model.local_chunk=384`) 179 GB. An activation
of a whole row has 25 MB (1,536 frames, 8 codebooks, 1,024 wide, bfloat16), that of a chunk a
quarter, and most of them then stay in on-chip memory; with chunks of 512 frames it is 195 GB
(78 %). The chunks are unrolled: a scan over them copies what is saved for the backward pass into
arrays of all chunks and out of them, 226 GB (68 %).
"""

_LEAST_TRAFFIC = 2e8  # bytes of a cause that is shown

_MUON = """
Only the all-reduce of gradients crosses slices, nothing of Muon. The optimiser update of
`gpst_1b` compiled separately for 2 x v5p:4x8x8, per chip and step: with the sharding of Muon's
iteration left to the compiler, and with the matrices resharded so that each device of a replica
owns whole layers, as in the train step (`gpst_jax/training/optimizer.py`):

| | over DCN, MB | over ICI, MB | temporaries, GiB | HBM, ms | matrix products, ms |
|---|---|---|---|---|---|
| sharding left to the compiler | 762 | 2,965 | 2.19 | 18.0 | 5.9 |
| whole layers per device | 0 | 482 | 0.29 | 3.6 | 6.6 |
"""

_SUGGESTED = """
The output of `--suggest` for `gpst_190m` on v5e:4x4 (25 minutes on two cores, with two other
compilations running):

    python -m experiments.compile --config=experiments/configs/gpst_190m.py --topology=v5e:4x4 \\
        --config.train.grad_accum_steps=1 --suggest

| remat | rows per chip | HBM per chip, GiB | MFU ceiling |
|---|---|---|---|
| none | 1 | 4.82 | 55.5% |
| none | 2 | 9.41 | 44.9% |
| dots | 1 | 1.47 | 99.3% |
| dots | 2 | 2.74 | 76.2% |
| full | 1 | 0.66 | 81.7% |
| full | 2 | 1.06 | 81.0% |

With one row per chip, the compiler keeps most activations in on-chip memory; with four rows (a
batch of 64 on 16 chips) it could not, and the ceiling was 57 %. So this configuration and
`gpst_hires_207m` process their batch of 64 in 4 micro-batches (`train.grad_accum_steps`, written
`4 x 1` above): four times the all-gathers, and ceilings of 99 % and, then, 96 %.
"""

_BUDGET = """
## What a budget buys

    python -m experiments.compile --budget=5000 --assume=chip=v5p,hours=200000
    python -m experiments.compile --budget=2e20flops --topology=v6e:8x8 \\
        --config=experiments/configs/gpst_1b.py

compiles nothing and says in seconds which size so many chip-hours (or model FLOPs) are best spent
on, and the steps, tokens, hours of audio, pod and days that they pay for. Every input is printed;
`--assume=NAME=VALUE,...` changes it, and `--json_out` stores all.

- **Size**: N = 1.7e9 (C / 3e20)^0.367 parameters for C FLOPs, the law of discrete audio in flat
  models (arXiv 2602.16687, fitted from 3e18 to 3e20 FLOPs; it prints exponents only, so that the
  line is anchored at its models of 1.7 billion parameters and 30 billion tokens for 3e20 FLOPs).
  Of `gpst_190m`, `gpst_1b`, `gpst_3b` and `gpst_7b` the nearest is named; `--config` names
  another. No law has been fitted to GPST: `law_parameters` and `law_parameter_exponent` take one
  that was.
- **FLOPs**: C = chip-hours x 3,600 x the chip's peak x `mfu` x `goodput`. `mfu` is assumed: 40 %,
  or four fifths of the ceiling in the table above where that is lower.
- **Steps and audio**: C over the formula of a step (`FLOPs, formula` above), each step
  `data.batch_size` rows of `data.crop_seconds`; tokens are the layout's, units a second + frames
  a second x codebooks: 650 for 50 + 75 x 8. The law's own tokens, D = 30e9 (C / 3e20)^0.579 at
  100 a second, are printed beside them.
- **Pod**: the smallest slice that is done within `days` and whose devices have no more rows than
  the compiled step above, or `--topology`.
- **Epochs**: the hours of audio over those at hand (`hours`); more than 4 are warned of (arXiv
  2305.16264, of text).
"""


def main(argv: list[str]) -> int:
    """Compiles the missing cases and writes the page; returns the exit code."""
    del argv
    directory = Path(_OUTPUT.value) / "pods"
    directory.mkdir(parents=True, exist_ok=True)
    wanted = [case for case in CASES if re.search(_ONLY.value, case.name)]
    failures = []
    with progress("cases", len(wanted)) as advance:
        for case in wanted:
            path = directory / f"{case.name}.json"
            if not path.exists() and not compile_case(case, path):
                failures.append(case.name)
            advance(1)
    write_text(directory.parent / "pods.md", page(directory))
    for name in failures:
        print(f"error: {name} did not compile or does not fit", file=sys.stderr)
    return exit_codes.PARTIAL if failures else exit_codes.OK


def page(directory: Path) -> str:
    """The page of all cases whose files are in `directory`."""
    paths = {case: directory / f"{case.name}.json" for case in CASES}
    results = [
        (case, json.loads(path.read_text())) for case, path in paths.items() if path.exists()
    ]
    missing = [case.name for case, path in paths.items() if not path.exists()]
    text = (
        _HEAD
        + render(results)
        + render_causes(results)
        + _CAUSES
        + render_growth(results)
        + _MUON
        + _SUGGESTED
        + _BUDGET
    )
    return text + (f"\nNot compiled yet: {', '.join(missing)}.\n" if missing else "")


def compile_case(case: Case, path: Path) -> bool:
    """Compiles one case into its JSON file; returns whether it fits."""
    command = [sys.executable, "-m", "experiments.compile", *case.flags, f"--json_out={path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout if done.returncode == 0 else done.stdout + done.stderr[-2000:], flush=True)
    return done.returncode == 0


def render(results: list[tuple[Case, dict[str, Any]]]) -> str:
    """The tables of the page."""
    lines = [
        "| config | parameters | pod | chips | mesh (replica, fsdp, tensor) | rows per chip | "
        "remat | HBM per chip, GiB | of | roofline step, s | bound by | MFU ceiling |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, result in results:
        memory = result["hbm_bytes_per_chip"]
        pod = _pod(case, result)
        mesh = ", ".join(str(size) for size in result["mesh"].values())
        numbers = (
            f"{result['roofline_step_s']:.3f} | {result['bound']} | {result['mfu_ceiling']:.0%}"
            if result["fits"]
            else "does not fit | | "
        )
        lines.append(
            f"| {case.label} | {result['parameters'] / 1e6:,.1f}M | {pod} | {result['chips']} | "
            f"{mesh} | {_rows(case, result)} | {_setting(result, 'model.remat')} | "
            f"{memory['total'] / 2**30:.2f} | {memory['capacity'] / 2**30:.2f} | {numbers} |"
        )
    lines += [f"\n\\* {note}" for note in sorted({r["note"] for _, r in results if "note" in r})]
    lines += [
        "",
        "Roofline times by component, and FLOPs of a step on all chips. `emitted` are the matrix "
        "products in the compiled program, attention kernels included; the excess over the formula "
        "is rematerialisation in the backward pass, and Muon's iteration, which does not depend on "
        "the number of rows.",
        "",
        "| config | pod | compute, s | HBM, s | ICI, s | DCN, s | FLOPs, formula | emitted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, result in results:
        if not result["fits"]:
            continue
        times = " | ".join(
            f"{result['roofline_s'][k]:.4f}" for k in ("compute", "hbm", "ici", "dcn")
        )
        flops = result["flops_per_step"]
        emitted = flops["compiler"] + flops["kernels"]
        lines.append(
            f"| {case.label} | {_pod(case, result)} | {times} | {flops['formula']:.3e} | "
            f"{emitted:.3e} ({emitted / flops['formula'] - 1:+.1%}) |"
        )
    return "\n".join(lines) + "\n"


def render_causes(results: list[tuple[Case, dict[str, Any]]]) -> str:
    """HBM traffic by cause, of the cases compiled since it is reported."""
    known = [(case, result) for case, result in results if result.get("traffic_by_cause")]
    if not known:
        return ""
    totals: dict[str, float] = {}
    for _, result in known:
        for cause, moved in result["traffic_by_cause"].items():
            totals[cause] = max(totals.get(cause, 0.0), moved)
    shown = [cause for cause in totals if totals[cause] >= _LEAST_TRAFFIC]
    shown.sort(key=lambda cause: -totals[cause])
    names = [f"{case.label}, {_pod(case, result)}" for case, result in known]
    lines = [
        "",
        "HBM traffic of a step by cause, in GB per chip (`gpst_jax/compilation/traffic.py`): "
        "`saved` are accesses to the stacks of saved activations and of layers' weights, `moves` "
        "copies between HBM and on-chip memory.",
        "",
        "| cause | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for cause in shown:
        row = (result["traffic_by_cause"].get(cause, 0.0) / 1e9 for _, result in known)
        lines.append(f"| {cause} | " + " | ".join(f"{moved:.2f}" for moved in row) + " |")
    whole = (result["memory_traffic_bytes"] / 1e9 for _, result in known)
    lines.append("| all | " + " | ".join(f"{moved:.2f}" for moved in whole) + " |")
    return "\n".join(lines) + "\n"


def render_growth(results: list[tuple[Case, dict[str, Any]]]) -> str:
    """Weak scaling: a table for each configuration compiled on three or more pods of a chip."""
    groups: dict[tuple[Any, ...], list[tuple[Case, dict[str, Any]]]] = {}
    for case, result in results:
        chip = case.topology.split(":")[0]
        key = (case.label, chip, case.rows_per_chip, result["mesh"]["fsdp"])
        groups.setdefault(key, []).append((case, result))
    lines: list[str] = []
    for (config, chip, rows, fsdp), group in groups.items():
        if len(group) < 3:
            continue
        group.sort(key=lambda pair: pair[1]["chips"])
        first = group[0][1]["roofline_step_s"]
        lines += [
            "",
            f"Scaling of `{config}` on {chip} with `fsdp` {fsdp} and {rows} rows per chip: only "
            "`replica` grows. Bytes sent by collectives in a step, by kind and mesh axis, in MB "
            "per chip:",
            "",
            "| pod | chips | roofline step, s | vs. smallest | over ICI, MB | over DCN, MB |",
            "|---|---|---|---|---|---|",
        ]
        for case, result in group:
            step = result["roofline_step_s"]
            sent = {network: _sent(result, network) for network in ("ici", "dcn")}
            lines.append(
                f"| {_pod(case, result)} | {result['chips']} | {step:.4f} | "
                f"{step / first - 1:+.1%} | {sent['ici']} | {sent['dcn']} |"
            )
    return "\n".join(lines) + "\n" if lines else ""


def _rows(case: Case, result: dict[str, Any]) -> str:
    """Rows per chip, as `micro-batches x rows` with gradient accumulation."""
    rows = case.rows_per_chip
    accumulate = int(_setting(result, "data.batch_size")) // (result["chips"] * rows)
    return str(rows) if accumulate == 1 else f"{accumulate} x {rows}"


def _setting(result: dict[str, Any], field: str) -> str:
    values = dict(setting.split("=", 1) for setting in from_flags(result["settings"]))
    return values[field]


def _pod(case: Case, result: dict[str, Any]) -> str:
    name = f"{case.num_slices} x {case.topology}" if case.num_slices > 1 else case.topology
    return f"{name} \\*" if "note" in result else name


def _sent(result: dict[str, Any], network: str) -> str:
    parts = [
        f"{part['kind']} {part['axis']} {part['bytes'] / 1e6:,.0f}"
        for part in result["collectives"]
        if part["network"] == network
    ]
    return ", ".join(parts) or "none"


if __name__ == "__main__":
    cli.run(main)
