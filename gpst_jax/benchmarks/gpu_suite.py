"""The suite `gpu`: what one GPU does in a few minutes, part by part.

A part is one case at one batch size, in a process of its own. Parts come in the order of what is
asked first, and each result is written as soon as it is there, so that a cut keeps what was
measured and the same command goes on where it stopped.
"""

import contextlib
import dataclasses
import datetime
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.benchmarks import generate_suite, suite
from gpst_jax.benchmarks.workload import Workload

SIZES = ("gpst_190m", "gpst_1b")
# Rows that are tried, the most likely best first.
ROWS: dict[str, tuple[int, ...]] = {"gpst_190m": (32, 64, 16), "gpst_1b": (8, 16, 4)}
GENERATE_ROWS = (1, 32)
GENERATE_FRAMES = 64
CASES = (
    *("matmul", "copy", "ours", "torch_compile", "csm_compile"),
    *("attention_xla", "attention_cudnn", "ours_attention_xla", "ours_remat_none"),
)
HEADING = "## Results: GPU\n"

# Seconds that a part has at most (or a quarter of all), and without which none is begun.
_MOST, _LEAST = 200.0, 15.0
_CARD = ("name", "driver", "memory_mib")


@dataclasses.dataclass(frozen=True)
class Part:
    """One case at one batch size.

    Attributes:
        kind: `card`, `train`, `generate` or `attention`.
        size: of the model.
        case: of the suite `train`, or `generate` for that kind and `copy`.
        workload: what is computed; its batch size counts.
        repeats: timed steps or calls.
    """

    kind: str
    size: str
    case: str
    workload: Workload
    repeats: int

    @property
    def name(self) -> str:
        """The part's key in the file."""
        return f"{self.kind}/{self.size}/{self.workload.rows}/{self.case}"


def plan(
    workloads: Mapping[str, Workload],
    cases: Sequence[str],
    *,
    rows: Sequence[int] = (),
    frames: int = 0,
    steps: int = 10,
) -> list[Part]:
    """All parts, in the order of what is asked first.

    Args:
        workloads: by size, with rematerialisation as configured; the first one generates.
        cases: names out of `CASES` that are wanted.
        rows: batch sizes of training, instead of `ROWS`; of generation, instead of its own.
        frames: of a call that generates; 0: 64, or as many as the workload has.
        steps: timed training steps.
    """
    first, base = next(iter(workloads.items()))
    tried = {
        size: tuple(rows) or ROWS.get(size, (work.rows, 2 * work.rows))
        for size, work in workloads.items()
    }
    made = [
        Part("card", first, "matmul", base, 3 * steps),
        Part("card", first, "copy", base, 3 * steps),
    ]

    def train(case: str, at: int) -> list[Part]:
        return [
            Part("train", size, case, work.with_rows(tried[size][at]), steps)
            for size, work in workloads.items()
            if at < len(tried[size])
        ]

    made += [
        part
        for pair in zip(train("ours", 0), train("torch_compile", 0), strict=True)
        for part in pair
    ]
    frames = frames or min(base.frames, GENERATE_FRAMES)
    for case in ("ours", "csm_compile"):
        for number in rows or GENERATE_ROWS:
            work = dataclasses.replace(base.with_rows(number), frames=frames)
            made.append(Part("generate", first, case, work, 3))
    for case in ("attention_xla", "attention_cudnn"):
        made += [dataclasses.replace(part, kind="attention") for part in train(case, 0)]
    made += train("ours_remat_none", 0) + train("ours_attention_xla", 0)
    for at in range(1, max(map(len, tried.values()))):
        made += train("ours", at) + train("torch_compile", at)
    return [part for part in made if part.case in cases]


def run(
    parts: Sequence[Part],
    document: dict[str, Any],
    write: Callable[[dict[str, Any]], None],
    seconds: float,
    done: Callable[[int], None],
) -> None:
    """Measures the parts that a document lacks.

    Args:
        parts: of `plan`.
        document: of `new_document`, or what an earlier run wrote; it is completed.
        write: stores the document; called after every part.
        seconds: for all parts; those that time does not suffice for stay out of the document.
        done: called with 1 after each part.
    """
    end, most = time.monotonic() + seconds, max(_MOST, seconds / 4)
    results = document["parts"]
    for part in parts:
        if part.name not in results or results[part.name]["cut"]:
            left = end - time.monotonic()
            if left < _LEAST:
                continue
            results[part.name] = _measure(part, document, min(left, most))
            write(document)
        done(1)


def missing(parts: Sequence[Part], document: Mapping[str, Any]) -> list[str]:
    """Names of the parts that have no result, or were cut."""
    results = document["parts"]
    return [part.name for part in parts if part.name not in results or results[part.name]["cut"]]


def _measure(part: Part, document: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    results, rows = document["parts"], part.workload.rows
    about = {"kind": part.kind, "size": part.size, "case": part.case, "rows": rows}
    smaller = next(
        (
            entry["rows"]
            for entry in results.values()
            if (entry["kind"], entry["size"], entry["case"]) == (part.kind, part.size, part.case)
            and entry["error"]
            and entry["rows"] < rows
        ),
        None,
    )
    if smaller:
        return about | {"error": f"not tried, as {smaller} rows failed", "cut": False}
    began = time.monotonic()
    generates = part.kind == "generate" or part.case == "copy"
    measured, cut = suite.measure_alone(
        part.case,
        part.workload,
        part.repeats,
        suite="generate" if generates else "train",
        seconds=seconds,
    )
    entry = _entry(part, measured, document)
    return about | entry | {"cut": cut, "seconds": round(time.monotonic() - began, 1)}


def _entry(part: Part, m: suite.Measurement, document: Mapping[str, Any]) -> dict[str, Any]:
    work = part.workload
    if part.case == "copy":
        speed = m.info["moved"] / m.step_s if m.seconds else None
        return {"error": m.error, "bytes_per_s": speed}
    if part.kind == "generate":
        return generate_suite.summary(m, work, _found(document, "copy", "bytes_per_s"))
    if part.case == "matmul":
        speed = m.info["flops"] / m.step_s if m.seconds else None
        keys = ("device", "platform", "dtype", "peak_flops")
        return {"error": m.error, "flops_per_s": speed} | {key: m.info.get(key) for key in keys}
    (case,) = suite.summarise([m], lambda _: work.frames_per_step)
    peak = _found(document, "matmul", "peak_flops")
    if peak and case["flops_per_s"]:
        case["mfu"] = case["flops_per_s"] / peak
    model = work.config.model
    case |= {"remat": getattr(model, "remat", None), "difference": m.info.get("difference")}
    return case


def _found(document: Mapping[str, Any], case: str, key: str) -> Any:
    """A value of a part of the kind `card`; None where it was not measured."""
    entries = document["parts"].values()
    return next((entry.get(key) for entry in entries if entry["case"] == case), None)


def card() -> dict[str, Any]:
    """Name, driver and memory of the first GPU by `nvidia-smi`; without one, the processor."""
    query = "--query-gpu=name,driver_version,memory.total"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        values = [value.strip() for value in answer.stdout.splitlines()[0].split(",")]
        return dict(zip(_CARD, values, strict=True))
    return dict(zip(_CARD, (suite.machine([])["processor"], None, None), strict=True))


def default_path() -> Path:
    """The file of this machine's card, from the root of the sources.

    Raises:
        UserError: there is no NVIDIA GPU.
    """
    found = card()
    if not found["driver"]:
        raise UserError("--suite=gpu: nvidia-smi finds no GPU; give --json_out to rehearse without")
    return Path("docs/gpu") / f"{re.sub(r'[^a-z0-9]+', '-', found['name'].lower())}.json"


def new_document() -> dict[str, Any]:
    """A document without results: card, driver, machine, versions and date."""
    machine = suite.machine([])
    keys = ("processor", "processors", "memory_bytes", "system")
    return {
        "suite": "gpu",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "card": card(),
        "machine": {key: machine[key] for key in keys},
        "versions": suite.versions(),
        "parts": {},
    }


def check_same_machine(document: Mapping[str, Any], path: Path) -> None:
    """Raises UserError if results of an earlier run are of another card or other versions."""
    now = new_document()
    for key in ("card", "versions"):
        if document.get(key) != now[key]:
            raise UserError(
                f"--json_out={path}: its results are of {key} {document.get(key)}, here it is "
                f"{now[key]}: name another file"
            )


def with_section(page: str, documents: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown page with its section `HEADING` as the documents give it.

    Raises:
        UserError: the page has no such section.
    """
    before, found, after = page.partition(HEADING)
    if not found:
        raise UserError(f"--page: it has no line {HEADING.strip()!r}")
    _, following, rest = after.partition("\n## ")
    return before + section(documents) + following + rest


def section(documents: Sequence[Mapping[str, Any]]) -> str:
    """The section of the page: how to measure, then the tables of every document."""
    tables = "".join(_tables(document) for document in documents)
    return f"{HEADING}\n{_HOW}{tables or _NONE}"


_HOW = """\
    pip install 'gpst_jax[cuda,codecs]'
    python -m experiments.benchmark --suite=gpu --page=docs/benchmarks.md

One GPU, at most 10 minutes (`--minutes`). In this order: `gpst_190m` and `gpst_1b`, ours with the
`remat` of the config, and the compiled torch peer; generation by `gpst_190m` at batch 1 and 32;
attention of one global layer, forward and backward, by XLA and by cuDNN; ours without
rematerialisation, and with XLA's attention; further batch sizes, of which the fastest counts.
Everything is in bfloat16. Each result is written as it comes, to a file named after the card in the
folder gpu beside this page (or to `--json_out`); the same command goes on with what is missing, and
`--minutes=0` measures nothing and writes this section. `--size=toy --json_out=FILE` rehearses on a
CPU.

The extra `cuda` brings JAX's wheels for CUDA 12, which need a driver of 525 or newer and no other
CUDA; docker/cuda.Dockerfile holds the same. A JAX for CUDA 13 serves as well.
"""
_NONE = """
None measured yet. To look at first, from the step of `gpst_190m` as lowered for CUDA: cuDNN's
attention takes the segments of packed rows as a bias of L x L per row, its backward pass writes the
gradient of that bias, which nobody reads, and with `remat` at `dots` its forward pass runs twice.
"""


def _tables(document: Mapping[str, Any]) -> str:
    entries = list(document["parts"].values())
    made = {kind: [e for e in entries if e["kind"] == kind and not e["error"]] for kind in _KINDS}
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    found = document["card"]
    lines = [
        f"\n### {found['name']}, {document['date']}\n",
        f"Measured; driver {found['driver']}, {versions}.",
    ]
    for kind, render in _KINDS.items():
        lines += render(made[kind])
    failed = [e for e in entries if e["error"]]
    if failed:
        lines.append("")
    lines += [
        f"- {e['kind']} {e['size']}, {e['rows']} rows, `{e['case']}`: {e['error']}" for e in failed
    ]
    return "\n".join(lines) + "\n"


def _card_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for entry in entries:
        if entry["case"] == "matmul":
            said.append(f"matrix products by JAX {entry['flops_per_s'] / 1e12:,.0f} TFLOP/s")
        else:
            said.append(f"memory {entry['bytes_per_s'] / 1e9:,.0f} GB/s read and written")
    return [f"In the same run: {', '.join(said)}."] if said else []


def _train_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for entry in entries:
        key = (entry["size"], entry["case"])
        if key not in best or entry["frames_per_s"] > best[key]["frames_per_s"]:
            best[key] = entry
    lines = [
        "",
        "| size | case | rows | remat | step s | frames/s | ours / case | TFLOP/s | MFU | "
        "peak GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (size, case), entry in sorted(best.items(), key=lambda item: item[0][0]):
        remat = "" if case.startswith("torch") else entry["remat"]
        lines.append(
            f"| `{size}` | `{case}` | {entry['rows']} | {remat} | {entry['step_s']:.4f} | "
            f"{entry['frames_per_s']:,.0f} | {_ratio(best.get((size, 'ours')), entry)} | "
            f"{entry['flops_per_s'] / 1e12:,.1f} | "
            f"{'' if entry['mfu'] is None else format(entry['mfu'], '.1%')} | "
            f"{entry['peak_memory_bytes'] / 2**30:.1f} |"
        )
    return lines if best else []


def _generate_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "",
        "| batch | case | frames/s | ours / case | real-time factor | first audio, s | of limit |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = {entry["rows"]: entry for entry in entries if entry["case"] == "ours"}
    for entry in sorted(entries, key=lambda entry: entry["rows"]):
        limit = entry["of_limit"]
        lines.append(
            f"| {entry['rows']} | `{entry['case']}` | {entry['frames_per_s']:,.1f} | "
            f"{_ratio(ours.get(entry['rows']), entry)} | {entry['real_time_factor']:.3f} | "
            f"{entry['first_audio_s']:.4f} | {'' if limit is None else format(limit, '.0%')} |"
        )
    return lines if entries else []


def _attention_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "",
        "| attention of | rows | by | ms | TFLOP/s | difference from float32 |",
        "|---|---|---|---|---|---|",
    ]
    for entry in sorted(entries, key=lambda entry: entry["size"]):
        lines.append(
            f"| `{entry['size']}` | {entry['rows']} | {entry['case'].removeprefix('attention_')} | "
            f"{1e3 * entry['step_s']:.3f} | {entry['flops_per_s'] / 1e12:,.1f} | "
            f"{entry['difference']:.1e} |"
        )
    return lines if entries else []


_KINDS: dict[str, Callable[[Sequence[Mapping[str, Any]]], list[str]]] = {
    "card": _card_lines,
    "train": _train_lines,
    "generate": _generate_lines,
    "attention": _attention_lines,
}


def _ratio(ours: Mapping[str, Any] | None, entry: Mapping[str, Any]) -> str:
    if ours is None or entry["case"] == "ours":
        return ""
    return f"{ours['frames_per_s'] / entry['frames_per_s']:.2f}x"
