"""Measures generated samples: word errors, speaker similarity and predicted opinion scores.

    python -m experiments.evaluate --samples=DIR --json_out=FILE [--report=FILE.html]

DIR holds one folder per condition, as `experiments.generate` writes them. An interrupted
evaluation resumes when it is run again. Word errors are those of a recogniser of digit strings and,
where its packages and weights are on this machine, of Whisper, which scores sentences too; else one
line says how to get them. Exit code 3: some samples could not be read.
"""

import json
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from data_pipeline.runtime.flag_rules import refuse
from gpst_jax.evaluation import suite
from gpst_jax.evaluation.metrics import registry, statistics
from gpst_jax.evaluation.report.page import render_report
from gpst_jax.evaluation.report.tables import print_results
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE, default_recipes

_SAMPLES = flags.DEFINE_string("samples", None, "Directory of generated samples.", required=True)
_ITEMS_OUT = flags.DEFINE_string("items_out", None, "Where to write the scores of single items.")
_REPORT = flags.DEFINE_string("report", None, "Where to write the results as an HTML page.")
_METRICS = flags.DEFINE_string(
    "metrics", None, "metrics.jsonl of the training run, for the loss curves of the page."
)
_TITLE = flags.DEFINE_string("title", "Speech samples", "Title of the page.")
_RESAMPLES = flags.DEFINE_integer("resamples", statistics.RESAMPLES, "Bootstrap resamples.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the choice of items and of the bootstrap.", 0)
_PROCESSES = flags.DEFINE_integer("processes", 0, "Worker processes; 0: one per core.", 0)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, f"Measured values; default: {suite.CACHE_DIR} in the samples' directory."
)


def _define(option: Field) -> flags.FlagHolder:
    default: Any = option.default
    choices = option.metadata["choices"]
    if option.name == "wer":  # what is scored by default depends on what is installed
        text = f"{option.metadata['help']} Default: {DIGITS_RECIPE}, then Whisper where it is here."
        return flags.DEFINE_list(option.name, None, text)
    if choices:
        return flags.DEFINE_enum(option.name, default, choices, option.metadata["help"])
    define: dict[type, Callable[..., flags.FlagHolder]] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    return define[type(default)](option.name, default, option.metadata["help"])


# The settings that have a help text; kinds may share one.
_OPTIONS = {option.name: option for kind in registry.METRICS for option in fields(kind)}
_SETTINGS = {
    name: _define(option) for name, option in _OPTIONS.items() if option.metadata.get("help")
}


def _settings() -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of the metrics, and lines on what is left out since it is not here."""
    settings = {name: flag.value for name, flag in _SETTINGS.items()}
    if settings["wer"] is not None:
        return settings | {"wer": tuple(settings["wer"])}, ()
    chosen, left_out = default_recipes()
    return settings | {"wer": chosen}, left_out


def _write_items(path: str, items: dict[str, list[dict[str, Any]]]) -> None:
    lines = [
        json.dumps({"condition": name} | item, ensure_ascii=False)
        for name, group in items.items()
        for item in group
    ]
    write_text(path, "\n".join(lines) + "\n")


def main(argv: list[str]) -> int:
    """Evaluates, prints the table, writes what the flags name."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options start with --")
    if not _REPORT.value:
        refuse(("metrics", "title"), "is for the page, which --report names: give both or neither")
    if _METRICS.value and not Path(_METRICS.value).is_file():
        raise UserError(f"--metrics={_METRICS.value}: no such file")
    settings, left_out = _settings()
    results, items = suite.evaluate(
        _SAMPLES.value,
        suite.EvaluationConfig(
            registry.configure(**settings),
            left_out=left_out,
            resamples=_RESAMPLES.value,
            seed=_SEED.value,
            processes=_PROCESSES.value,
        ),
        cache_dir=_CACHE_DIR.value,
    )
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, results)
    if _ITEMS_OUT.value:
        _write_items(_ITEMS_OUT.value, items)
    if _REPORT.value:
        render_report(
            results, _SAMPLES.value, _METRICS.value, _REPORT.value, _TITLE.value, items=items
        )
    print_results(results)
    return exit_codes.PARTIAL if any(results["failed"].values()) else exit_codes.OK


if __name__ == "__main__":
    cli.run(main)
