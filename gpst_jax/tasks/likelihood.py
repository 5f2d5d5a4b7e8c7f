"""The likelihood side of an evaluation: held-out loss, given recordings, minimal pairs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.datasets.cache import exists, local_dataset
from data_pipeline.loading.mixture import dataset_with
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.config import ConfigError, GPSTConfig, SemanticLMConfig
from gpst_jax.evaluation.likelihood.controls import coin_pairs, identical_pairs, shuffled_units
from gpst_jax.evaluation.likelihood.files import read_list
from gpst_jax.evaluation.likelihood.held_out import held_out
from gpst_jax.evaluation.likelihood.minimal_pairs import score_pairs
from gpst_jax.evaluation.likelihood.pair_layouts import read_pairs
from gpst_jax.evaluation.likelihood.scoring import Scoring, open_scoring
from gpst_jax.evaluation.likelihood.termination import read_endings, termination
from gpst_jax.synthesis.models import Model, open_model

CACHE_FILE = "likelihood.jsonl"
UTTERANCES_FILE = "utterances.jsonl"
CONTROLS = "controls"  # the value of `--pairs` for pairs made of the run's held-out recordings
CONTROL_PAIRS = 200
_SPLIT = "valid"
_ENDED_BY_THE_MODEL = ("unconditional", "speech_continuation")  # elsewhere units say how long


def of_held_out(
    model: Model, dataset: str | None, output: Path, items: int | None, resamples: int, seed: int
) -> dict[str, Any]:
    """Held-out loss of a run: `likelihood`, with `bits_per_second` beside it where there is one.

    Args:
        model: of the run.
        dataset: directory of dataset.json; None: the run's.
        output: where scores are kept, and those of single utterances written (`utterances.jsonl`).
        items: at most so many utterances; None: all.
        resamples: of the bootstrap.
        seed: of the choice of utterances and of the bootstrap.

    Returns:
        JSON values to merge into the results, or a line in `left_out`.
    """
    config = model.loaded.config
    if not isinstance(config.model, GPSTConfig | SemanticLMConfig):
        return {"left_out": [f"likelihood: models of family {config.model.family!r} give none"]}
    try:
        directory = _dataset(model, dataset)
        scoring = open_scoring(model.loaded, model.directory, cache=output / CACHE_FILE)
        found = held_out(
            scoring, directory, split=_SPLIT, items=items, seed=seed, resamples=resamples
        )
    except UserError as error:
        return {"left_out": [f"likelihood is left out: {error}"]}
    write_text(output / UTTERANCES_FILE, _jsonl(found.pop("items")))
    rate = found["estimates"].get("bits_per_second")
    return {"likelihood": found} | ({"bits_per_second": rate} if rate else {})


def ends(output: Path, resamples: int, seed: int) -> dict[str, Any]:
    """How often the model ended speech by itself, in the conditions in which it decides that.

    Args:
        output: directory of samples.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `termination` with a row for each condition; empty where there is none.
    """
    records = {
        # Two renditions of the same units ended once.
        name: list({str(r.get("pair") or r.get("id")): r for r in of_condition}.values())
        for name, of_condition in read_endings(output).items()
        if name.startswith(_ENDED_BY_THE_MODEL)
    }
    if not records:
        return {}
    return {"termination": termination(records, resamples=resamples, seed=seed)}


def score_recordings(
    workdir: str, step: int | None, dataset: str | None, file: str, output: Path
) -> dict[str, Any]:
    """Log-likelihoods of a list of recordings, written to `scores.jsonl`.

    Args:
        workdir: run or export of GPST or of the semantic language model.
        step: checkpoint; None: the newest.
        dataset: directory of dataset.json; None: the run's.
        file: the list, see `files.read_list`.
        output: directory of the results.

    Returns:
        The result as a JSON value; `failed` counts recordings without one.

    Raises:
        UserError: the model or the list is not usable.
    """
    scoring, _ = _open(workdir, step, dataset, output)
    rows = scoring.files(read_list(file))
    lines = [row.to_json() for row in rows]
    write_text(output / "scores.jsonl", _jsonl(lines))
    failed = sum(row.failure is not None for row in rows)
    return {"model": scoring.fingerprint, "recordings": len(rows), "failed": failed}


def compare_pairs(
    workdir: str,
    step: int | None,
    dataset: str | None,
    pairs: str,
    output: Path,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """How often a model prefers the first of two recordings, written to `pairs.json`.

    Args:
        workdir: run or export of GPST or of the semantic language model.
        step: checkpoint; None: the newest.
        dataset: directory of dataset.json; None: the run's.
        pairs: what `pairs.read_pairs` takes, or `controls`.
        output: directory of the results.
        resamples: of the bootstrap.
        seed: of the controls and of the bootstrap.

    Returns:
        The result as a JSON value; that of `controls` by kind. `failed` lists unreadable files.

    Raises:
        UserError: the model or the pairs are not usable.
    """
    scoring, model = _open(workdir, step, dataset, output)
    chosen: dict[str, Any]
    if pairs == CONTROLS:
        directory = _dataset(model, dataset)
        kinds: dict[str, Callable[..., Any]] = {
            "shuffled_units": shuffled_units,
            "coin": coin_pairs,
            "identical": identical_pairs,
        }
        chosen = {
            name: make(scoring, directory, split=_SPLIT, count=CONTROL_PAIRS, seed=seed)
            for name, make in kinds.items()
        }
    else:
        chosen = {"": read_pairs(pairs)}
    results, items = {}, []
    for name, of_kind in chosen.items():
        results[name], scored = score_pairs(scoring, of_kind, resamples=resamples, seed=seed)
        items += [({"control": name} if name else {}) | item for item in scored]
    result = results.get("") or {
        "controls": results,
        "failed": [failure for one in results.values() for failure in one["failed"]],
    }
    write_text(output / "pairs.jsonl", _jsonl(items))
    write_json(output / "pairs.json", result)
    return result


def _open(
    workdir: str, step: int | None, dataset: str | None, output: Path
) -> tuple[Scoring, Model]:
    output.mkdir(parents=True, exist_ok=True)
    try:
        model = open_model(workdir, step, dataset)
    except (CheckpointError, ConfigError) as error:
        raise UserError(str(error)) from error
    return open_scoring(model.loaded, model.directory, cache=output / CACHE_FILE), model


def _dataset(model: Model, dataset: str | None) -> str:
    """The dataset whose held-out utterances are scored."""
    if dataset is not None:
        return local_dataset(dataset)
    path = model.loaded.config.data.path
    if not exists(path):
        raise UserError(f"the dataset {path!r} of {model.path} is not there: give it as --dataset")
    return dataset_with(path, _SPLIT)


def _jsonl(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
