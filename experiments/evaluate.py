"""Measures generated samples: error rates, voices and predicted opinion, with intervals.

    python -m experiments.evaluate --samples=DIR --json_out=FILE [--report=FILE.html]

DIR holds a folder for each condition, as `experiments.generate` writes them. An evaluation that
was interrupted goes on where it stopped.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from gpst_jax.evaluation import recipes, suite
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.report.page import render_report
from gpst_jax.evaluation.report.tables import print_results

_DEFAULTS = suite.EvaluationConfig()

_SAMPLES = flags.DEFINE_string("samples", None, "Directory of generated samples.", required=True)
_ITEMS_OUT = flags.DEFINE_string("items_out", None, "Where to write the scores of single items.")
_REPORT = flags.DEFINE_string("report", None, "Where to write the results as an HTML page.")
_METRICS = flags.DEFINE_string(
    "metrics", None, "metrics.jsonl of the training run, for the loss curves of the page."
)
_TITLE = flags.DEFINE_string("title", "Speech samples", "Title of the page.")
_WER = flags.DEFINE_enum(
    "wer",
    _DEFAULTS.wer,
    [r.id for r in recipes.RECIPES.values() if r.kind == "wer"],
    "Recipe of the word error rate. GPST_HUBERT_CTC in the environment names a local model.",
)
_SIMILARITY = flags.DEFINE_enum(
    "similarity",
    _DEFAULTS.similarity,
    [r.id for r in recipes.RECIPES.values() if r.kind == "similarity"],
    "Recipe of the speaker similarity. GPST_WAVLM_SV in the environment names a local model.",
)
_SIMILARITY_ITEMS = flags.DEFINE_integer(
    "similarity_items", _DEFAULTS.similarity_items, "Items for similarity per condition; 0: none."
)
_MOS_ITEMS = flags.DEFINE_integer(
    "mos_items", _DEFAULTS.mos_items, "Items for opinion scores per condition; 0: none."
)
_VOICE_THRESHOLD = flags.DEFINE_float(
    "voice_threshold",
    _DEFAULTS.voice_threshold,
    "Two speakers sound clearly different when their mean embeddings' cosine is below this.",
)
_RESAMPLES = flags.DEFINE_integer("resamples", statistics.RESAMPLES, "Bootstrap resamples.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the choice of items and of the bootstrap.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "Worker processes; 0: one for each core.")
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, f"Measured values; default: {suite.CACHE_DIR} in the samples' directory."
)


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
    if _METRICS.value and not Path(_METRICS.value).is_file():
        raise UserError(f"--metrics={_METRICS.value}: no such file")
    results, items = suite.evaluate(
        _SAMPLES.value,
        suite.EvaluationConfig(
            wer=_WER.value,
            similarity=_SIMILARITY.value,
            similarity_items=_SIMILARITY_ITEMS.value,
            mos_items=_MOS_ITEMS.value,
            voice_threshold=_VOICE_THRESHOLD.value,
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
    return 0


if __name__ == "__main__":
    cli.run(main)
