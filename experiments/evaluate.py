"""Measures speech of a model: word errors, speaker similarity, opinion scores, likelihoods.

A run, generated and scored in one command that goes on where it was interrupted:

    python -m experiments.evaluate --workdir=RUN [--lm_workdir=LM_RUN] [--task=NAME] \
        [--corpus_dir=DIR] [--list=FILE] [--report=FILE.html]

Without --task the items are held-out recordings of the run's dataset. Results and samples are in
--output, by default RUN/evaluation/TASK (docs/evaluation.md). Samples that are there already:

    python -m experiments.evaluate --samples=DIR --json_out=FILE [--report=FILE.html]

DIR holds one folder per condition, as `experiments.generate` writes them. Word errors are those of
a recogniser of digit strings and, where its packages and weights are on this machine, of Whisper,
which scores sentences too; else one line says how to get them. Log-likelihoods:

    python -m experiments.evaluate --workdir=RUN --score=FILE     # of the recordings in a list
    python -m experiments.evaluate --workdir=RUN --pairs=FILE     # of minimal pairs

Runs, exports, datasets, samples and outputs may be in a bucket: gs://BUCKET/NAME.

Exit code 3: some samples or recordings could not be made or read.
"""

import json
import os
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.runtime import cli, exit_codes, mirror
from data_pipeline.runtime.buckets import access, location
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from data_pipeline.runtime.flag_rules import given, may_be_in_buckets, refuse
from gpst_jax.evaluation import suite
from gpst_jax.evaluation.metrics import registry, statistics
from gpst_jax.evaluation.report.page import render_report
from gpst_jax.evaluation.report.tables import print_results
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE, default_recipes
from gpst_jax.samples.manifest import read_samples

# What generates imports JAX: it is imported where it is needed, since the processes that measure
# import this program again.

_SAMPLES = flags.DEFINE_string("samples", None, "Directory of generated samples.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run or export to evaluate: GPST, flow matching or SoundStorm."
)
_LM_WORKDIR = flags.DEFINE_string(
    "lm_workdir", None, "Run or export of the language model, for texts and dialogues."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of --workdir; default: the newest.", 0)
_TASK = flags.DEFINE_string(
    "task",
    None,
    "Items and protocol: librispeech-gpst, librispeech-1127, seed-tts-en, vctk-vc, multilingual, "
    "hires, dialogue, demo, seen-voices; default: held-out recordings of the run's dataset.",
)
_ITEMS = flags.DEFINE_integer(
    "items", None, "At most so many items of the task; default: all of them.", 1
)
_DATASET = flags.DEFINE_string("dataset", None, "Dataset of --workdir; default: the run's own.")
_AUDIO_DIR = flags.DEFINE_string(
    "audio_dir", None, "Root of the dataset's recordings; default: where it was made from."
)
_CORPUS_DIR = flags.DEFINE_string("corpus_dir", None, "Root of the corpus of the task.")
_LIST = flags.DEFINE_string("list", None, "Published list of the task, or file of dialogues.")
_SCORE = flags.DEFINE_string(
    "score", None, "List of recordings, of which --workdir gives log-likelihoods."
)
_PAIRS = flags.DEFINE_string(
    "pairs",
    None,
    "Minimal pairs, of which --workdir is to prefer the first: a CSV or JSONL file, the directory "
    "of sWUGGY, sBLIMP, SALMon or StoryCloze, or 'controls'.",
)
_NLL_ITEMS = flags.DEFINE_integer(
    "nll_items", 500, "Held-out utterances for the loss of --workdir; 0: none.", 0
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Directory of samples and results; default: WORKDIR/evaluation/TASK."
)
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
may_be_in_buckets(
    *("workdir", "lm_workdir", "dataset", "samples", "output", "items_out", "report", "metrics")
)
_OF_SCORING = ("lm_workdir", "task", "items", "audio_dir", "corpus_dir", "list", "nll_items")
_OF_RUNS = (*_OF_SCORING, "step", "dataset", "output")


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


def _settings(
    default: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of the metrics, and lines on what is left out since it is not here."""
    settings = {name: flag.value for name, flag in _SETTINGS.items()}
    if settings["wer"] is not None:
        return settings | {"wer": tuple(settings["wer"])}, ()
    chosen, left_out = default or default_recipes()
    return settings | {"wer": chosen}, left_out


def _write_items(path: str | Path, items: dict[str, list[dict[str, Any]]]) -> None:
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
    _check_flags()
    if given("score", "pairs"):
        return _score_likelihoods()
    if _SAMPLES.value:
        settings, left_out = _settings()
        with mirror.outputs(_SAMPLES.value) as samples:
            return _finish(*_measure(samples, settings, left_out), samples)
    return _evaluate_run()


def _check_flags() -> None:
    """Raises UserError for flags that exclude each other, or that others leave without effect."""
    if not _REPORT.value:
        refuse(("metrics", "title"), "is for the page, which --report names: give both or neither")
    if _METRICS.value:
        with access(_METRICS.value):
            if not location(_METRICS.value).is_file():
                raise UserError(f"--metrics={_METRICS.value}: no such file")
    if not _SAMPLES.value and not _WORKDIR.value:
        raise UserError("--samples or --workdir: give the samples, or the run to evaluate")
    if _SAMPLES.value:
        refuse(("workdir",), "generates samples, which --samples names already: give one of them")
        refuse((*_OF_RUNS, "score", "pairs"), "is for --workdir, not for --samples")
    for name in given("score", "pairs")[:1]:
        refuse((*_OF_SCORING, "report"), f"is for generated speech, which --{name} excludes")
    if given("score") and given("pairs"):
        raise UserError("--score and --pairs: give one of them")


def _measure(
    samples: str | Path, settings: dict[str, Any], left_out: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Results and scores of single items of a directory of samples."""
    return suite.evaluate(
        samples,
        suite.EvaluationConfig(
            registry.configure(**settings),
            left_out=left_out,
            resamples=_RESAMPLES.value,
            seed=_SEED.value,
            processes=_PROCESSES.value,
        ),
        cache_dir=_CACHE_DIR.value,
    )


def _finish(
    results: dict[str, Any], items: dict[str, list[dict[str, Any]]], samples: str | Path
) -> int:
    """Writes and prints what was measured; returns the exit code."""
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, results)
    if _ITEMS_OUT.value:
        _write_items(_ITEMS_OUT.value, items)
    if _REPORT.value:
        render_report(results, samples, _METRICS.value, _REPORT.value, _TITLE.value, items=items)
    print_results(results)
    return exit_codes.PARTIAL if any(results["failed"].values()) else exit_codes.OK


def _workdir() -> str:
    assert _WORKDIR.value is not None  # `_check_flags` saw to it
    return _WORKDIR.value


def _output(name: str) -> str:
    return _OUTPUT.value or os.path.join(_workdir(), "evaluation", name)


def _evaluate_run() -> int:
    """Generates a task and scores it."""
    from gpst_jax.tasks import registry as tasks

    where = _output(tasks.get_task(_TASK.value).name)
    with mirror.outputs(where) as output:
        code = _evaluate_task(output)
    print(f"results: {os.path.join(where, 'results.json')}")
    return code


def _evaluate_task(output: Path) -> int:
    """Generates a task in a directory and scores it there."""
    from gpst_jax.tasks import languages, likelihood, recipes, run
    from gpst_jax.tasks import registry as tasks
    from gpst_jax.tasks.base import ListedTask

    task = tasks.get_task(_TASK.value)
    made = run.generate(
        _TASK.value,
        run.Options(
            workdir=_workdir(),
            output=output,
            lm_workdir=_LM_WORKDIR.value,
            step=_STEP.value,
            dataset=_DATASET.value,
            audio_dir=_AUDIO_DIR.value,
            corpus_dir=_CORPUS_DIR.value,
            list_file=_LIST.value,
            items=_ITEMS.value,
            workers=_PROCESSES.value,
        ),
    )
    about: dict[str, Any] = {"left_out": []}
    if _NLL_ITEMS.value:
        about |= likelihood.of_held_out(
            made.model, _DATASET.value, output, _NLL_ITEMS.value, _RESAMPLES.value, _SEED.value
        )
    about |= likelihood.ends(output, _RESAMPLES.value, _SEED.value)
    conditions = read_samples(output)
    kinds = {s.text_kind for group in conditions.values() for s in group if s.text}
    # A list is scored as a whole; held-out sentences have conditions of their own.
    digits = kinds == {"digits"} if isinstance(task, ListedTask) else "digits" in kinds
    settings, left_out = _settings(recipes.choose(task.wer, digits))
    results, items = _measure(output, settings, (*left_out, *about.pop("left_out", ())))
    results |= {"task": made.about} | about
    results["by_language"] = languages.by_language(
        conditions, items, settings["wer"], resamples=_RESAMPLES.value, seed=_SEED.value
    )
    write_json(output / "results.json", results)
    _write_items(output / "items.jsonl", items)
    return _finish(results, items, output)


def _score_likelihoods() -> int:
    """Log-likelihoods of recordings, or of minimal pairs."""
    from gpst_jax.tasks import likelihood

    of = (_workdir(), _STEP.value, _DATASET.value)
    where = _output("score" if _SCORE.value is not None else "pairs")
    with mirror.outputs(where) as output:
        if _SCORE.value is not None:
            result = likelihood.score_recordings(*of, _SCORE.value, output)
        else:
            result = likelihood.compare_pairs(
                *of, str(_PAIRS.value), output, resamples=_RESAMPLES.value, seed=_SEED.value
            )
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    print(json.dumps(result, indent=2, ensure_ascii=False))
    print(f"results: {where}")
    return exit_codes.PARTIAL if result["failed"] else exit_codes.OK


if __name__ == "__main__":
    cli.run(main)
