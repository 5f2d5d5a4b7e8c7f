"""The training run on the report page: loss by stream and codebook, from metrics.jsonl."""

import json
import math
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.report import plots
from gpst_jax.evaluation.report.players import picture


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Reads metrics.jsonl: one object with `step` per line; a truncated last line is skipped.

    Raises:
        UserError: the file cannot be read, or another line is not such an object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({"step": row["step"], **row})
        except (json.JSONDecodeError, KeyError, TypeError):
            if number < len(lines):
                raise UserError(f"{path} line {number}: not an object with a step") from None
    return rows


def _curve(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(r["step"], r[key]) for r in rows if isinstance(r.get(key), int | float)]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    return [step for step, _ in points], [value for _, value in points]


def training_section(metrics_path: str | Path) -> str:
    """Curves over steps, and where each codebook stood at the end; empty without such metrics.

    Raises:
        UserError: the file cannot be read.
    """
    rows = read_metrics(metrics_path)
    keys = sorted({key for row in rows for key in row}, key=lambda key: (len(key), key))
    semantic: dict[str, Any] = {}
    acoustic: dict[str, Any] = {}
    last: dict[str, dict[str, float]] = {"training": {}, "held out": {}}
    for key in keys:
        prefix, _, name = key.partition("/")
        held_out = "" if prefix == "train" else "eval "
        if prefix not in ("train", "eval", "valid"):
            continue
        curve = _curve(rows, key)
        ends = last["held out" if held_out else "training"]
        if name == "nll_semantic":
            semantic[f"{held_out}semantic units"] = curve
            ends |= {"units": curve[1][-1]} if curve[1] else {}
        elif name.startswith("nll_acoustic_q"):
            codebook = int(name.removeprefix("nll_acoustic_q")) + 1
            acoustic[f"{held_out}codebook {codebook}"] = curve
            ends |= {str(codebook): curve[1][-1]} if curve[1] else {}
    panels = [
        (title, plots.curves(lines))
        for title, lines in (("Semantic stream", semantic), ("Acoustic stream", acoustic))
        if lines
    ]
    if not panels:
        return ""
    ended = {label: values for label, values in last.items() if values}
    if ended:
        panels.append(("At the end, by codebook", plots.bars(ended, "nats")))
    return (
        "<h2>Training</h2><p>Negative log-likelihood in nats per token, by stream and codebook."
        f"</p>{picture(panels, 'loss curves')}"
    )
