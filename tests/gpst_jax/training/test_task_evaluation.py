"""Speech that is rendered and scored in training, and checkpoints chosen by it."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from stored_archive import unpack_with_recordings
from toy_run import (
    ToyLoader,
    ToyObjective,
    compile_once,  # noqa: F401
    toy_config,
    with_train,
)

from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints import manager
from gpst_jax.checkpoints.manager import load_params
from gpst_jax.config import ConfigError, EvalConfig, RunConfig
from gpst_jax.evaluation.metrics import speaker, wer
from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.samples.manifest import read_samples
from gpst_jax.trackers import jsonl
from gpst_jax.training import loop, task_evaluation


class Keeper:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.scalars, self.audio = {}, {}

    def write(self, step, values):
        self.scalars.setdefault(step, {}).update(values)

    def write_audio(self, step, name, wav, sample_rate):
        self.audio[step, name] = (len(wav), sample_rate)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def one_word(monkeypatch):
    """A recogniser that hears "one" in everything, and an encoder of one voice."""

    def measurement(name, value):
        return Measurement(f"toy/{name}", 1, 16000, (), lambda: lambda wav: value)

    texts = {"model": "toy", "normalisation": "none", "aggregation": "mean"}
    recipe = wer.TranscriptRecipe(
        id=DIGITS_RECIPE, kind="wer", measurement=measurement("words", "one"),
        text_kinds=("digits", "free"), normalise=lambda text: text, **texts,
    )  # fmt: skip
    monkeypatch.setitem(wer.RECIPES, DIGITS_RECIPE, recipe)
    name = "sim-o/resemblyzer-smoke"
    voice = Recipe(id=name, kind="similarity", measurement=measurement("voice", [1.0]), **texts)
    monkeypatch.setitem(speaker.RECIPES, name, voice)
    monkeypatch.setattr(
        task_evaluation.recipes, "choose", lambda wanted, digits: ((DIGITS_RECIPE,), ())
    )


def config(stored, **fields) -> RunConfig:
    loaded = load_params(stored / "runs" / "gpst", 4)
    data = dataclasses.replace(loaded.config.data, path=str(stored / "tokens"), crop_seconds=9.0)
    evaluation = EvalConfig(task="held-out", items=2, **fields)
    return dataclasses.replace(loaded.config, data=data, eval=evaluation)


def test_numbers_and_audio_go_to_the_tracker(stored, tmp_path, one_word, monkeypatch):
    monkeypatch.setattr(
        task_evaluation, "find_audio", lambda dataset, splits, audio: stored / "recordings"
    )
    params = load_params(stored / "runs" / "gpst", 4).params
    evaluate = task_evaluation.make_task_evaluation(config(stored), tmp_path)
    tracker = Keeper()
    found = evaluate(7, params, tracker)
    samples = read_samples(tmp_path / "evaluation" / "training")
    assert set(samples) == {"semantic_to_acoustic"}
    written = [sample for sample in samples["semantic_to_acoustic"] if sample.audio.exists()]
    assert len(tracker.audio) == len(written)
    assert found["task/failures"] == 2 - len(written)
    assert tracker.scalars == {7: found}
    words = [len(sample.text.split()) for sample in samples["semantic_to_acoustic"]]
    heard = ["one" in sample.text.split() for sample in samples["semantic_to_acoustic"]]
    assert found["task/word_errors"] == pytest.approx(1 - sum(heard) / sum(words), abs=0.2)
    assert found["task/similarity"] == pytest.approx(len(written) / 2)
    # The same parameters say the same, and others are scored anew.
    assert evaluate(8, params, None) == found
    louder = jax.tree.map(lambda leaf: leaf * np.float32(1.5), params)
    assert set(evaluate(9, louder, None)) == set(found)


def test_without_recordings_words_alone_are_scored(stored, tmp_path, one_word):
    evaluate = task_evaluation.make_task_evaluation(config(stored), tmp_path)
    params = load_params(stored / "runs" / "gpst", 4).params
    assert "task/similarity" not in evaluate(1, params, None)


def test_items_are_the_first_with_a_text_of_the_speakers_in_turn(stored):
    chosen = task_evaluation.choose(stored / "tokens", 3, 30.0)
    assert len({record.speaker for record in chosen[:2]}) == 2
    assert all(record.text for record in chosen)
    with pytest.raises(UserError, match=r"eval.task.* no transcript"):
        task_evaluation.choose(stored / "tokens", 3, 0.01)


def test_what_a_configuration_may_ask_for():
    with pytest.raises(ConfigError, match="task: 'vctk-vc' is not one of"):
        EvalConfig(task="vctk-vc")
    assert EvalConfig().task == ""


def test_a_checkpoint_is_chosen_by_the_task_only_where_there_is_one(stored):
    run = config(stored)
    chosen = dataclasses.replace(run.train, keep_best=1, best_metric="task/word_errors")
    dataclasses.replace(run, train=chosen)
    with pytest.raises(ConfigError, match=r"train.best_metric: 'task/word_errors' needs eval.task"):
        dataclasses.replace(run, train=chosen, eval=EvalConfig())
    # Runs of versions without the section are read as they were.
    record = json.loads(run.to_json())
    del record["eval"]
    assert RunConfig.from_json(json.dumps(record)).eval == EvalConfig()


@pytest.mark.usefixtures("compile_once")
def test_the_best_checkpoint_is_that_with_the_fewest_errors(tmp_path, monkeypatch):
    """Checkpoints of steps without the task, which have a held-out loss alone, are none to keep."""
    errors = {3: 0.5, 6: 0.1, 8: 0.3}
    made = []

    def task(step, params, tracker):
        made.append(step)
        tracker.write(step, {"task/word_errors": errors[step]})
        return {"task/word_errors": errors[step]}

    monkeypatch.setattr(loop, "_task_evaluation", lambda config, workdir: task)
    run = toy_config(train={"steps": 8, "eval_every": 2, "checkpoint_every_steps": 1})
    run = dataclasses.replace(run, eval=EvalConfig(task="held-out", every=3))
    run = with_train(
        run, eval_batches=1, keep_latest=1, keep_best=1, best_metric="task/word_errors"
    )
    loaders = {"train": ToyLoader(run.data.batch_size), "valid": ToyLoader()}
    loop.train(
        *(run, ToyObjective(run.data.batch_size), loaders.get, tmp_path),
        dataset={"fingerprint": "a"},
        devices=jax.devices()[:1],
    )
    assert made == [3, 6, 8]  # the end is evaluated too
    saves = manager.Checkpoints(tmp_path, writable=False)
    assert saves.steps == [6, 8]
    saves.close()
    lines = jsonl.read_metrics(tmp_path / jsonl.METRICS_FILE)
    assert {r["step"]: r["task/word_errors"] for r in lines if "task/word_errors" in r} == errors
