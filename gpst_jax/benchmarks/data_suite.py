"""The data benchmark: preparation and loading, compared with the demand of one host of a pod."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.tokenization import beam_runner
from data_pipeline.tokens import TokenLayout
from gpst_jax.benchmarks import data_cases
from gpst_jax.config import RunConfig
from gpst_jax.objectives import GPSTObjective
from gpst_jax.parallel import chips

HOST_CHIPS, HOST_KIND, HOST_MFU = 8, "TPU v5 lite", 0.4
_SHORT = TokenLayout(100, 2, 64, unit_rate=50.0, frame_rate=50.0)  # small records


def demand(config: RunConfig, layout: TokenLayout) -> dict[str, Any]:
    """Rows per second that one v5e-8 host consumes in training at 40 % MFU.

    It is chips x peak FLOP/s x MFU over the training FLOPs of a row.
    """
    flops = sum(GPSTObjective(config, layout).flops().values()) / config.data.batch_size
    peak = chips.peak_flops(HOST_KIND) or 0.0
    return {
        "config": config.name,
        "chips": HOST_CHIPS,
        "peak_flops": peak,
        "mfu": HOST_MFU,
        "flops_per_row": flops,
        "rows_per_s": HOST_CHIPS * peak * HOST_MFU / flops,
    }


def measure(
    config: RunConfig, layout: TokenLayout, scale: float, done: Callable[[int], None]
) -> dict[str, Any]:
    """Runs all cases; `scale` below 1 shrinks them, 1 is the full size."""
    data = config.data
    packing = PackingConfig(data.sequence_length, data.frame_budget, data.crop_seconds)
    cores = len(os.sched_getaffinity(0))
    wanted = demand(config, layout)
    result: dict[str, Any] = {"suite": "data", "cores": cores, "demand": wanted}
    runners = [("local", 1), ("local", cores)]
    if importlib.util.find_spec("apache_beam"):
        runners += [(beam_runner.DIRECT, 1), (beam_runner.DIRECT, cores)]
    result["tokenising"] = data_cases.run_apart(data_cases.tokenising, 240 * scale, tuple(runners))
    done(1)
    result["loading"] = []
    for workers in sorted({0, 1, cores}):
        found = data_cases.run_apart(
            data_cases.loading, layout, packing, 64, workers, max(20 * scale, 1)
        )
        result["loading"].append(found | {"of_demand": found["rows_per_s"] / wanted["rows_per_s"]})
        done(1)
    result["reading"] = data_cases.run_apart(data_cases.reading, int(1_000_000 * scale), _SHORT)
    done(1)
    result["planning"] = data_cases.run_apart(
        data_cases.planning, int(20_000_000 * scale), packing, layout
    )
    done(1)
    return result


def units_of_progress() -> int:
    """Number of calls of `done` by `measure`."""
    return 3 + len({0, 1, len(os.sched_getaffinity(0))})


def lines(result: dict[str, Any]) -> list[str]:
    """The result as lines of text."""
    wanted, whole = result["demand"], result["tokenising"]["whole"]
    gib = 2.0**30
    text = [f"{result['cores']} cores", "", "tokenising, seconds of audio per second on one core:"]
    text += [f"  {name:24} {rate:10,.0f}" for name, rate in result["tokenising"]["stages"].items()]
    text += [f"tokenize_corpus on {result['tokenising']['audio_seconds'] / 3600:.1f} h:"]
    first = next(iter(whole.values()))
    text += [f"  {name:24} {rate:10,.0f}   {rate / first:.2f}x" for name, rate in whole.items()]
    text += [
        "",
        f"one host of {wanted['chips']} chips of {wanted['peak_flops'] / 1e12:.0f} TFLOP/s at "
        f"{wanted['mfu']:.0%} MFU trains {wanted['config']} "
        f"({wanted['flops_per_row']:.3g} FLOPs per row) at {wanted['rows_per_s']:.0f} rows/s",
    ]
    text += [
        f"  loader, {found['workers']} workers: {found['rows_per_s']:,.0f} rows/s, "
        f"{found['bytes_per_s'] / 2**20:,.0f} MiB/s, {found['of_demand']:.1f}x the demand"
        for found in result["loading"]
    ]
    reading, planning = result["reading"], result["planning"]
    text += [
        "",
        f"random access to {reading['records']:,} records: {reading['records_per_s']:,.0f} per "
        f"second; resident memory after each tenth, GiB: "
        + " ".join(f"{size / gib:.3f}" for size in reading["rss_bytes"]),
        f"packing plan of {planning['records']:,} records ({planning['rows']:,} rows): index "
        f"{planning['index_s']:.1f} s, plan {planning['plan_s']:.1f} s, a row "
        f"{planning['row_s'] * 1e6:.0f} us, peak {planning['peak_rss_bytes'] / gib:.2f} GiB",
    ]
    return text
