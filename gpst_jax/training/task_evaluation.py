"""Speech in training: a few fixed recordings are rendered and scored every `eval.every` steps.

Given the units of held-out recordings the model samples their frames (semantic to acoustic). All
processes sample; one decodes, writes and scores, and all get its numbers, so that checkpoints may
be chosen by them. Recordings and the packages of the extra `eval` are needed there alone.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import Record, RecordReader
from data_pipeline.loading.mixture import dataset_with
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import read_audio
from data_pipeline.sources.reading import stored_utterance
from data_pipeline.tokenizers import load_codec
from gpst_jax.config import GPSTConfig, RunConfig
from gpst_jax.evaluation import suite
from gpst_jax.evaluation.metrics import registry
from gpst_jax.generation.gpst_modes import RequestBuilder
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.generation.guards import Guards
from gpst_jax.samples.gpst_config import GenerationConfig
from gpst_jax.samples.items import find_audio
from gpst_jax.samples.manifest import Sample, write_manifest
from gpst_jax.samples.texts import text_kind
from gpst_jax.synthesis.files import write_speech
from gpst_jax.tasks import recipes
from gpst_jax.trackers import Tracker

logger = logging.getLogger(__name__)

TaskEvaluation = Callable[[int, Any, Tracker | None], dict[str, float]]
FOLDER = Path("evaluation", "training")  # in the workdir: samples of the latest step
_SPLIT, _MODE, _RECORDING = "valid", "semantic_to_acoustic", "recording"
_NAMES = ("task/word_errors", "task/similarity", "task/failures")
_LOOKED_AT = 1000  # records among which the speakers take turns: a split may be of any size
_RESAMPLES = 200  # of intervals that nobody sees


def make_task_evaluation(config: RunConfig, workdir: str | Path) -> TaskEvaluation:
    """Builds the evaluation that the section `eval` of a run asks for.

    Args:
        config: the run, of GPST.
        workdir: directory of the run.

    Returns:
        A function of (step, parameters, tracker): the numbers `task/...` of this step. All
        processes of a run call it, under the run's mesh; one has the tracker.

    Raises:
        ConfigError: the run is of another family.
        UserError: the dataset has no transcripts, or a package is missing.
    """
    model, data = config.model_as(GPSTConfig), config.data
    dataset = Path(dataset_with(data.path, _SPLIT))
    spec = DatasetSpec.load(dataset)
    records = choose(dataset, config.eval.items, data.crop_seconds)
    layout, silence = spec.layout(), (np.array(spec.silence.units), np.array(spec.silence.codes))
    builder = RequestBuilder(layout, silence, data.deduplicate)
    requests = [
        builder.semantic_to_acoustic(record.units.astype(np.int32), item=index)
        for index, record in enumerate(records)
    ]
    acoustic = GenerationConfig().acoustic
    scorer = None
    if jax.process_index() == 0:
        scorer = _Scorer(Path(workdir) / FOLDER, records, dataset, spec)

    def evaluate(step: int, params: Any, tracker: Tracker | None) -> dict[str, float]:
        decoder = Decoder(model, layout, params, data.positions, silence)
        results = decoder.decode(requests, seed=0, acoustic=acoustic, guards=Guards())
        values = np.full(len(_NAMES), np.nan)
        if scorer is not None:
            found = scorer.score(step, [result.codes for result in results], tracker)
            values = np.array([found.get(name, np.nan) for name in _NAMES])
        if jax.process_count() > 1:
            values = np.asarray(multihost_utils.broadcast_one_to_all(values))
        known = {name: float(v) for name, v in zip(_NAMES, values, strict=True) if np.isfinite(v)}
        if tracker is not None:
            tracker.write(step, known)
        return known

    return evaluate


def choose(dataset: Path, count: int, longest: float) -> list[Record]:
    """The first records of a dataset that have a transcript, its speakers in turn.

    Args:
        dataset: directory of dataset.json.
        count: at most so many.
        longest: that a record may last, in seconds.

    Raises:
        UserError: there are none.
    """
    reader = RecordReader(dataset, _SPLIT)
    by_speaker: dict[str, list[Record]] = {}
    for index in range(min(len(reader), _LOOKED_AT)):
        record = reader[index]
        if record.text and record.end - record.start <= longest:
            by_speaker.setdefault(record.speaker, []).append(record)
    if not by_speaker:
        raise UserError(
            f"config field eval.task: the first records of the split {_SPLIT} of {dataset} have no "
            f"transcript to count word errors with, or last longer than {longest:g} s "
            "(data.crop_seconds)"
        )
    turns = range(max(map(len, by_speaker.values())))
    ordered = [its[n] for n in turns for _, its in sorted(by_speaker.items()) if n < len(its)]
    return ordered[:count]


class _Scorer:
    """Decodes, writes and scores the speech of a step, in the process that has the tracker.

    Args:
        output: directory of the samples, those of the latest step.
        records: whose units are rendered.
        dataset: directory of dataset.json.
        spec: its contents.
    """

    def __init__(self, output: Path, records: Sequence[Record], dataset: Path, spec: DatasetSpec):
        self._output, self._records, self._spec = output, records, spec
        self._codec: Any = load_codec(dataset / spec.codec.path)
        digits = all(text_kind(record.text) == "digits" for record in records)
        (self._wer, *_), left_out = recipes.choose((), digits)
        for line in left_out:
            logger.warning("%s", line)
        self._with_voices = self._write_recordings(dataset)
        metrics = registry.configure(
            wer=(self._wer,), similarity_items=len(records) * self._with_voices, mos_items=0
        )
        self._config = suite.EvaluationConfig(metrics, resamples=_RESAMPLES, processes=1)
        for metric in metrics:
            for recipe in metric.selected():
                recipe.measurement.check()  # now, not after the first thousand steps
        self._similarity = next(m.similarity for m in metrics if hasattr(m, "similarity"))

    def score(self, step: int, codes: Sequence[np.ndarray], tracker: Tracker | None) -> dict:
        """Numbers by name, of the codes (Q, T) of each record; no speech is a failure."""
        folder = self._output / _MODE
        for record, its in zip(self._records, codes, strict=True):
            path = folder / f"{_name(record)}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if its.shape[1]:
                wav = np.asarray(self._codec.decode(its), np.float32)
                write_speech(path, wav, self._codec.sample_rate)
                if tracker is not None:
                    tracker.write_audio(step, f"task/{path.stem}", wav, self._codec.sample_rate)
        write_manifest(folder, map(self._sample, self._records))
        try:
            results, _ = suite.evaluate(self._output, self._config, show_progress=False)
        except UserError as error:  # training goes on
            logger.warning("step %d: speech is not scored: %s", step, error)
            return {}
        rows = results["modes"][_MODE]
        found = {
            "task/word_errors": rows.get(self._wer, {}).get("value"),
            "task/similarity": rows.get(self._similarity, {}).get("value"),
            "task/failures": len(results["failed"].get(_MODE, {})),
        }
        return {name: float(value) for name, value in found.items() if value is not None}

    def _write_recordings(self, dataset: Path) -> bool:
        """Writes the recordings, which voices are compared with; false where they are gone."""
        try:
            root = find_audio(dataset, [_SPLIT], None)
        except UserError as error:
            logger.warning("voices are not compared in training: %s", error)
            return False
        folder, rate = self._output / _RECORDING, self._spec.sample_rate
        folder.mkdir(parents=True, exist_ok=True)
        for record in self._records:
            wav = read_audio(stored_utterance(record.source, root), rate)
            wav = wav[round(record.start * rate) : round(record.end * rate)]
            write_speech(folder / f"{_name(record)}.wav", wav, rate)
        return True

    def _sample(self, record: Record) -> Sample:
        name = f"{_name(record)}.wav"
        return Sample(
            id=_name(record),
            audio=Path(name),
            text=record.text,
            text_kind=text_kind(record.text),
            language=None if record.language == "und" else record.language,
            speaker=record.speaker,
            source_audio=Path("..", _RECORDING, name) if self._with_voices else None,
        )


def _name(record: Record) -> str:
    return record.id.replace("/", "_")
