"""Generates a task with a run: opens the models, chooses the items, writes the samples."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.datasets.cache import exists, local_dataset
from data_pipeline.loading.mixture import dataset_with
from data_pipeline.runtime.claim import claimed
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.config import ConfigError
from gpst_jax.synthesis.models import Model, open_model
from gpst_jax.synthesis.synthesizer import SynthesisSettings
from gpst_jax.tasks import held_out, registry
from gpst_jax.tasks.base import ListedTask, Request
from gpst_jax.tasks.listed import ListedSamples
from gpst_jax.tasks.multilingual import MULTILINGUAL


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is evaluated; the fields are flags of `experiments.evaluate`.

    Attributes:
        workdir: run or export of GPST or of a perceptual stage.
        output: directory of the samples.
        lm_workdir: of the language model, which reading aloud needs.
        step: checkpoint of `workdir`; None: the newest.
        dataset: directory of dataset.json; None: the run's own.
        audio_dir: root of that dataset's recordings; None: where they were when it was made.
        corpus_dir: of a task's corpus.
        list_file: published list of a task.
        items: at most so many items; None: all of the task.
        workers: processes that run the codec's decoder; 0: one per core.
    """

    workdir: str
    output: Path
    lm_workdir: str | None = None
    step: int | None = None
    dataset: str | None = None
    audio_dir: str | None = None
    corpus_dir: str | None = None
    list_file: str | None = None
    items: int | None = None
    workers: int = 0


@dataclasses.dataclass(frozen=True)
class Generated:
    """Samples of a task, complete.

    Attributes:
        task: which one.
        model: that was sampled from.
        about: the task, its items and the models, as JSON values.
    """

    task: registry.Task
    model: Model
    about: dict[str, Any]


def generate(
    name: str | None, options: Options, report: Callable[[str], None] = print
) -> Generated:
    """Generates the samples of a task; what is finished is kept, so that it can be interrupted.

    Args:
        name: of the task; None: the held-out recordings of the run's dataset.
        options: what is evaluated.
        report: called with lines of progress.

    Raises:
        UserError: a model, a corpus or a list is not there or not usable, or the output holds
            samples of another task, of other settings or parameters.
    """
    task = registry.get_task(name)
    _refuse_unused(task, options)
    try:
        model = open_model(options.workdir, options.step, options.dataset)
        language = open_model(options.lm_workdir, flag="lm_workdir") if options.lm_workdir else None
        request = Request(
            corpus_dir=_path(options.corpus_dir),
            list_file=_path(options.list_file),
            dataset=None if _has_corpus(task) else _dataset(model, options),
            audio_dir=_path(options.audio_dir),
        )
        with claimed(options.output):
            about = _samples(task, model, language, request, options, report)
    except (CheckpointError, ConfigError) as error:
        raise UserError(str(error)) from error
    models: dict[str, Any] = {
        "workdir": str(options.workdir),
        "family": model.loaded.config.model.family,
        "step": model.loaded.step,
    }
    if language is not None:
        models |= {"lm_workdir": str(options.lm_workdir), "lm_step": language.loaded.step}
    description = {"name": task.name, "source": task.source, "rule": task.rule}
    return Generated(task, model, description | about | {"models": models})


def _samples(task, model, language, request, options: Options, report) -> dict[str, Any]:
    """Writes the samples; returns what was generated, as JSON values."""
    workers = options.workers or os.cpu_count() or 1
    if not isinstance(task, ListedTask):
        items = held_out.generate(
            task, model, language, request, options.output, options.items, workers, report
        )
        return {"items": items}
    whole = task.choose(request)
    chosen = whole if options.items is None else whole.few(options.items)
    items = chosen.describe()
    if task.published is not None:
        items |= {"published": task.published, "complete": len(chosen.items) == task.published}
    report(f"{task.name}: {len(chosen.items)} of {len(whole.items)} items, sha256 {chosen.sha256}")
    made = ListedSamples(
        task, chosen, model, language, options.output, SynthesisSettings(), workers, report
    )
    made.run()
    return {"items": items} | made.describe()


def _has_corpus(task: registry.Task) -> bool:
    """Whether the items are files of a corpus, not recordings of the run's dataset."""
    return isinstance(task, ListedTask) and task is not MULTILINGUAL


def _refuse_unused(task: registry.Task, options: Options) -> None:
    """Raises UserError for what a task does not look at."""
    if _has_corpus(task):
        unused = {"audio_dir": options.audio_dir}
    else:
        unused = {"corpus_dir": options.corpus_dir}
    for flag, value in unused.items():
        if value is not None:
            other = "--corpus_dir" if _has_corpus(task) else "--audio_dir"
            raise UserError(f"--{flag}={value}: the recordings of {task.name} are under {other}")


def _dataset(model: Model, options: Options) -> Path:
    """The dataset whose recordings are rendered: its shards hold their transcripts."""
    if options.dataset is not None:
        return Path(local_dataset(options.dataset))
    path = model.loaded.config.data.path
    if not exists(path):
        raise UserError(
            f"--workdir={options.workdir}: its dataset {path!r} is not there, seen from "
            f"{Path.cwd()}: give the dataset, or a copy of it, as --dataset"
        )
    return Path(dataset_with(path, *held_out.SPLITS))


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)
