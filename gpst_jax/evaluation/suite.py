"""Evaluates all conditions of a directory of samples with every registered kind of metric."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.comparisons import compared_conditions, is_ceiling
from gpst_jax.evaluation.measure import measure_files
from gpst_jax.evaluation.metrics import registry, statistics
from gpst_jax.evaluation.metrics.base import Floor, Inputs, Metric, Scores
from gpst_jax.evaluation.metrics.recipe import Measurement, Outcome
from gpst_jax.samples.manifest import UNSEEN, Sample, read_samples

CACHE_DIR = ".evaluation_cache"


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and how numbers are aggregated."""

    metrics: tuple[Metric, ...] = field(default_factory=registry.configure)
    resamples: int = statistics.RESAMPLES  # of the bootstrap
    seed: int = 0  # of the choice of items, the shuffles and the bootstrap
    processes: int = 0  # 0: one per core
    left_out: tuple[str, ...] = ()  # lines on what is not measured here, and how to get it

    def __post_init__(self):
        if self.processes < 0:
            raise UserError(f"processes must not be negative, is {self.processes}")
        if self.resamples < 1:
            raise UserError(f"resamples must be positive, is {self.resamples}")

    def settings(self) -> dict[str, Any]:
        """All settings as one JSON object: choices by name first, then numbers."""
        options = [
            (option.name, getattr(metric, option.name))
            for metric in self.metrics
            for option in fields(metric)
        ]
        options.sort(key=lambda entry: isinstance(entry[1], int | float))
        general = ("resamples", "seed", "processes")
        return dict(options) | {name: getattr(self, name) for name in general}


class _Measurer:
    """Measures files, each of them once, and records the time that it takes."""

    def __init__(self, cache_dir: Path, processes: int, show_progress: bool) -> None:
        self.timings: dict[str, float] = {}  # measurement id -> seconds
        self._cache_dir = cache_dir
        self._processes = processes or os.cpu_count() or 1
        self._show_progress = show_progress
        self._known: dict[str, dict[Path, Outcome]] = {}

    def __call__(self, measurement: Measurement, paths: Sequence[Path]) -> Mapping[Path, Outcome]:
        known = self._known.setdefault(measurement.id, {})
        missing = [path for path in paths if path not in known]
        if missing:
            start = time.monotonic()
            known |= measure_files(
                measurement,
                missing,
                cache_dir=self._cache_dir,
                processes=self._processes,
                show_progress=self._show_progress,
            )
            spent = self.timings.get(measurement.id, 0.0) + time.monotonic() - start
            self.timings[measurement.id] = round(spent, 2)
        return {path: known[path] for path in paths}

    def failures(self, samples: Sequence[Sample]) -> dict[str, str]:
        """Samples whose audio is not there or cannot be read: id -> reason."""
        found = {}
        for sample in samples:
            outcomes = (known.get(sample.audio) for known in self._known.values())
            reasons = [outcome.failure for outcome in outcomes if outcome and outcome.failure]
            if reasons or not sample.audio.is_file():
                found[sample.id] = reasons[0] if reasons else "no such file"
        return found


def _differences(
    inputs: Inputs, scored: Sequence[tuple[Metric, Scores]]
) -> dict[str, dict[str, Any]]:
    """Paired differences: "condition - base" -> recipe id -> row."""
    rows: dict[str, dict[str, Any]] = {}
    for a, b in compared_conditions(list(inputs.conditions)):
        speakers = inputs.speakers(a)
        rows[f"{a} - {b}"] = {
            recipe_id: metric.difference(
                recipe_id,
                scores.values.get((recipe_id, a), {}),
                scores.values.get((recipe_id, b), {}),
                speakers=speakers,
                **inputs.bootstrap,
            )
            for metric, scores in scored
            for recipe_id in dict.fromkeys(recipe_id for recipe_id, _ in scores.values)
        }
    return rows


def _floors(scored: Sequence[tuple[Metric, Scores]]) -> dict[str, dict[str, Any]]:
    """Floors of seen speakers first; within these, floors of single conditions last."""
    floors = [floor for _, scores in scored for floor in scores.floors]

    def order(floor: Floor) -> tuple[bool, bool]:
        return floor.name.endswith(UNSEEN), floor.one_condition

    rows: dict[str, dict[str, Any]] = {}
    for floor in sorted(floors, key=order):
        rows.setdefault(floor.name, {})[floor.recipe_id] = floor.row
    return rows


def _items(
    conditions: Mapping[str, Sequence[Sample]], scored: Sequence[tuple[Metric, Scores]]
) -> dict[str, list[dict[str, Any]]]:
    """Scores of single items by condition, with null where a metric has none."""

    def item(condition: str, sample: Sample) -> dict[str, Any]:
        speaker = None if sample.speaker in statistics.UNKNOWN else sample.speaker
        return {"id": sample.id, "text": sample.text, "speaker": speaker} | {
            key: scores.items.get((condition, sample.id), {}).get(key)
            for metric, scores in scored
            for key in metric.item_fields
        }

    return {name: [item(name, s) for s in samples] for name, samples in conditions.items()}


def evaluate(
    samples_dir: str | Path,
    config: EvaluationConfig | None = None,
    *,
    cache_dir: str | Path | None = None,
    show_progress: bool = True,
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Measures every condition below `samples_dir`.

    Interrupted runs resume: values of single files are cached by content.

    Args:
        samples_dir: directory with one folder and manifest per condition.
        config: what to measure; defaults to the recipes that run offline.
        cache_dir: where values of files are kept; defaults to a folder in `samples_dir`.
        show_progress: whether to show progress bars.

    Returns:
        The results, and the scores of single items by condition. Results hold `modes` and
        `ceilings` (condition -> recipe id -> {value, ci95, n, ...}), `floors`, `differences`
        (paired by id, with p-values), `failed` (condition -> id -> reason, of samples whose audio
        is missing, silent or unreadable), `recipes` (description by id), `left_out` (lines on
        what could not be measured here), `settings` and `timings_s`. A row without numbers has
        value None and a `reason`.

    Raises:
        UserError: invalid samples, a missing package, or a cache that cannot be written.
    """
    config = config or EvaluationConfig()
    conditions = read_samples(samples_dir)
    used = {recipe.id: recipe for metric in config.metrics for recipe in metric.selected()}
    for recipe in used.values():
        recipe.measurement.check()  # before any work
    cache = Path(cache_dir) if cache_dir else Path(samples_dir) / CACHE_DIR
    measure = _Measurer(cache, config.processes, show_progress)
    inputs = Inputs(conditions, measure, config.resamples, config.seed)
    scored = [(metric, metric.score(inputs)) for metric in config.metrics]
    rows: dict[str, dict[str, Any]] = {name: {} for name in conditions}
    for _, scores in scored:
        for (name, key), row in scores.rows.items():
            rows[name][key] = row
    ceilings = {name: row for name, row in rows.items() if is_ceiling(name)}
    results = {
        "modes": {name: row for name, row in rows.items() if name not in ceilings},
        "ceilings": ceilings,
        "floors": _floors(scored),
        "differences": _differences(inputs, scored),
        "recipes": {recipe.id: recipe.describe() for recipe in used.values()},
        "failed": {
            name: failures
            for name, samples in conditions.items()
            if (failures := measure.failures(samples))
        },
        "left_out": list(config.left_out),
        "settings": config.settings()
        | {"samples": {name: len(samples) for name, samples in conditions.items()}},
        "timings_s": measure.timings,
    }
    return results, _items(conditions, scored)
