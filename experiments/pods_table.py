"""Compiles the pod configurations for their slices and writes docs/pods.md.

    python -m experiments.pods_table

Each case runs `experiments.compile` in a process of its own and leaves `docs/pods/CASE.json`; a
case that is there is not compiled again, so that an interrupted table goes on. Minutes per case.
A case whose program has changed since is deleted, or keeps a `note` in its file until it is
compiled again; the page shows it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.files import write_text
from data_pipeline.runtime.progress import progress

_OUTPUT = flags.DEFINE_string("output", "docs", "Directory of pods.md and pods/.")
_ONLY = flags.DEFINE_string("only", "", "Regular expression of the cases to compile; all.")


class Case(NamedTuple):
    """One row of the table."""

    config: str
    topology: str
    num_slices: int
    rows_per_chip: int
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A file name."""
        place = self.topology.replace(":", "-")
        return f"{self.config}-{self.num_slices}x{place}"

    @property
    def flags(self) -> list[str]:
        """Those of `experiments.compile`."""
        return [
            f"--config=experiments/configs/{self.config}.py",
            f"--topology={self.topology}",
            f"--num_slices={self.num_slices}",
            f"--rows_per_chip={self.rows_per_chip}",
            *(f"--set={setting}" for setting in self.settings),
        ]


# Every configuration on every kind of chip, then several slices, then growth at equal work a chip.
CASES = (
    Case("gpst_190m", "v5e:4x4", 1, 1),
    Case("gpst_1b", "v5p:2x2x4", 1, 4),
    Case("gpst_1b", "v5p:4x8x8", 1, 4),
    Case("gpst_1b", "v5p:4x8x8", 2, 4),
    Case("gpst_1b", "v5p:8x16x16", 1, 4),
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
)

_HEAD = """\
# What fits on which pod

Every figure on this page is **compile-only**: the train step that `experiments.pretrain` runs was
compiled by the TPU compiler for the slice named, on a machine without a TPU, and memory, FLOPs and
collectives were read from the compiled program. No step was timed. The roofline step time is the
largest of four times, each of which assumes that the other three overlap with it fully: matrix
products over the chip's peak, HBM traffic over its bandwidth, and the bytes of collectives over the
links between chips (ICI) and between slices (DCN); the rates are in `gpst_jax/parallel/chips.py`.
The MFU ceiling is the FLOPs of the formula in the objective's `flops` over that time and the peak.
A real run stays below it. HBM traffic is an upper estimate: it counts every operand that the
compiler did not place in on-chip memory.

Made by `python -m experiments.pods_table`; one case, with its collectives:

    python -m experiments.compile --config=experiments/configs/gpst_1b.py --topology=v5p:2x2x4 \\
        --rows_per_chip=4

"""

_MUON = """
What crosses between slices: the sum of gradients, and of Muon nothing. The optimiser's update of
`gpst_1b` compiled by itself for 2 x v5p:4x8x8, for each chip and step, with the compiler free to
place Muon's iteration, and with each layer's matrices whole on one device of a replica, as the step
has it (`gpst_jax/training/optimizer.py`):

| | over DCN, MB | over ICI, MB | temporaries, GiB | HBM, ms | matrix products, ms |
|---|---|---|---|---|---|
| left to the compiler | 762 | 2,965 | 2.19 | 18.0 | 5.9 |
| layers dealt out | 0 | 482 | 0.29 | 3.6 | 6.6 |
"""

_SUGGESTED = """
What `--suggest` finds, here for `gpst_190m` on v5e:4x4 (25 minutes on two cores, beside two other
compilations):

    python -m experiments.compile --config=experiments/configs/gpst_190m.py --topology=v5e:4x4 \\
        --set=train.grad_accum_steps=1 --suggest

| remat | rows per chip | HBM per chip, GiB | MFU ceiling |
|---|---|---|---|
| none | 1 | 4.82 | 55.5% |
| none | 2 | 9.41 | 44.9% |
| dots | 1 | 1.47 | 99.3% |
| dots | 2 | 2.74 | 76.2% |
| full | 1 | 0.66 | 81.7% |
| full | 2 | 1.06 | 81.0% |

The compiler keeps most activations of a single row in the chip's own memory; of four rows (the
64 of a step on 16 chips) it could not, and the ceiling was 57 %. So this configuration and
`gpst_hires_207m` take their 64 rows in 4 micro-batches (`train.grad_accum_steps`, written `4 x 1`
above): four times the gathers, and ceilings of 99 % and 96 %.
"""


def main(argv: list[str]) -> int:
    """Compiles what is missing and writes the page; returns the exit code."""
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
    return 1 if failures else 0


def page(directory: Path) -> str:
    """The page of all cases whose files are in `directory`."""
    paths = {case: directory / f"{case.name}.json" for case in CASES}
    results = [
        (case, json.loads(path.read_text())) for case, path in paths.items() if path.exists()
    ]
    missing = [case.name for case, path in paths.items() if not path.exists()]
    text = _HEAD + render(results) + render_growth(results) + _MUON + _SUGGESTED
    return text + (f"\nNot compiled yet: {', '.join(missing)}.\n" if missing else "")


def compile_case(case: Case, path: Path) -> bool:
    """Compiles one case into its JSON file; whether it fits."""
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
            f"| {case.config} | {result['parameters'] / 1e6:,.1f}M | {pod} | {result['chips']} | "
            f"{mesh} | {_rows(case, result)} | {_setting(result, 'model.remat')} | "
            f"{memory['total'] / 2**30:.2f} | {memory['capacity'] / 2**30:.2f} | {numbers} |"
        )
    lines += [f"\n\\* {note}" for note in sorted({r["note"] for _, r in results if "note" in r})]
    lines += [
        "",
        "Times of the roofline by part, and FLOPs of a step on all chips. `emitted` are the matrix "
        "products in the compiled program, attention kernels included; what exceeds the formula is "
        "recomputed in the backward pass, or Muon's iteration, which is the same for any number of "
        "rows.",
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
            f"| {case.config} | {_pod(case, result)} | {times} | {flops['formula']:.3e} | "
            f"{emitted:.3e} ({emitted / flops['formula'] - 1:+.1%}) |"
        )
    return "\n".join(lines) + "\n"


def render_growth(results: list[tuple[Case, dict[str, Any]]]) -> str:
    """A table of one configuration on growing pods of one chip, with equal work for each chip."""
    groups: dict[tuple[Any, ...], list[tuple[Case, dict[str, Any]]]] = {}
    for case, result in results:
        chip = case.topology.split(":")[0]
        key = (case.config, chip, case.rows_per_chip, result["mesh"]["fsdp"])
        groups.setdefault(key, []).append((case, result))
    lines: list[str] = []
    for (config, chip, rows, fsdp), group in groups.items():
        if len(group) < 3:
            continue
        group.sort(key=lambda pair: pair[1]["chips"])
        first = group[0][1]["roofline_step_s"]
        lines += [
            "",
            f"Growth of `{config}` on {chip} with `fsdp` {fsdp} and {rows} rows for each chip: "
            "only `replica` grows. What the chips send each other in a step, by kind and mesh "
            "axis, in MB for each chip:",
            "",
            "| pod | chips | roofline step, s | to the smallest | over ICI, MB | over DCN, MB |",
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
    """Rows per chip of a micro-batch, and how many of these a step has where it has several."""
    rows = case.rows_per_chip
    accumulate = int(_setting(result, "data.batch_size")) // (result["chips"] * rows)
    return str(rows) if accumulate == 1 else f"{accumulate} x {rows}"


def _setting(result: dict[str, Any], field: str) -> str:
    start = f"--set={field}="
    return next(s for s in result["settings"] if s.startswith(start)).removeprefix(start)


def _pod(case: Case, result: dict[str, Any]) -> str:
    name = f"{case.num_slices} x {case.topology}" if case.num_slices > 1 else case.topology
    return f"{name} \\*" if "note" in result else name


def _sent(result: dict[str, Any], network: str) -> str:
    parts = [
        f"{part['kind']} {part['axis']} {part['bytes'] / 1e6:,.0f}"
        for part in result["collectives"]
        if part["network"] == network
    ]
    return ", ".join(parts) or "nothing"


if __name__ == "__main__":
    cli.run(main)
