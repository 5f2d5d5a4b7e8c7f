"""The training loop over a tiny objective: resume, stops, metrics. It knows no model family."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
from toy_run import (
    VOCABULARY,
    ToyLoader,
    ToyObjective,
    assert_trees_close,
    assert_trees_equal,
    compile_once,  # noqa: F401
    toy_config,
    with_train,
)

from data_pipeline.runtime import claim
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints import manager, record, storage
from gpst_jax.config import ConfigError, MeshConfig
from gpst_jax.trackers import jsonl
from gpst_jax.training import log, loop

DATASET = {"fingerprint": "dataset-a"}

pytestmark = pytest.mark.usefixtures("compile_once")


def run_train(workdir, config, objective=None, loader=None, valid=None, **options):
    objective = objective or ToyObjective(config.data.batch_size)
    loader = loader or ToyLoader(config.data.batch_size)
    return loop.train(
        config,
        objective,
        {"train": loader, "valid": valid}.get,
        workdir,
        dataset=options.get("dataset", DATASET),
        devices=options.get("devices", jax.devices()[:1]),
        skip_batches=options.get("skip_batches", range(0)),
    )


def lines(workdir):
    return jsonl.read_metrics(workdir / jsonl.METRICS_FILE)


class Stop(Exception):
    """Stands for a crash: nothing is saved on the way out."""


def crash_at(row):
    loader = ToyLoader()

    def before_next(current):
        if current == row:
            raise Stop

    loader.before_next = before_next
    return loader


def interrupt_at(row, number):
    loader = ToyLoader()
    loader.before_next = lambda current: current == row and os.kill(os.getpid(), number)
    return loader


def load(workdir, **options):
    return jax.device_get(manager.load_params(workdir, **options).params)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    config = toy_config(train={"steps": 7, "checkpoint_every_steps": 3, "eval_every": 2})
    config = with_train(config, eval_batches=2, ema_decay=0.9)
    loader = ToyLoader()
    run_train(workdir, config, ToyObjective(noise=0.1), loader, ToyLoader())
    return workdir, config, loader.get_state()


@pytest.mark.parametrize("name", ["crash", "SIGTERM", "SIGINT"])
def test_resume_equals_the_uninterrupted_run(name, uninterrupted, tmp_path):
    whole, config, last_row = uninterrupted
    objective = ToyObjective(noise=0.1)  # so that a wrong key of a step would show
    if name == "crash":  # in step 6, after the checkpoint of step 3
        with pytest.raises(Stop):
            run_train(tmp_path, config, objective, crash_at(40), ToyLoader())
        assert lines(tmp_path)[-1]["step"] >= 4  # lines that the resume must drop
    else:
        loader = interrupt_at(32, getattr(signal, name))
        result = run_train(tmp_path, config, objective, loader, ToyLoader())
        assert result.interrupted
        assert result.steps == 5  # the step in progress ends
    loader = ToyLoader()
    result = run_train(tmp_path, config, objective, loader, ToyLoader())
    assert (result.steps, result.interrupted) == (7, False)
    assert loader.get_state() == last_row
    for average in (False, True):
        assert_trees_equal(load(tmp_path, average=average), load(whole, average=average))

    def comparable(workdir):
        timing = ("time", "perf/")
        return [
            {name: value for name, value in line.items() if not name.startswith(timing)}
            for line in lines(workdir)
        ]

    assert comparable(tmp_path) == comparable(whole)
    steps = [line["step"] for line in lines(tmp_path) if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert [line["step"] for line in lines(tmp_path) if "eval/loss" in line] == [2, 4, 6, 7]


def test_metrics_and_result(uninterrupted):
    whole, config, _ = uninterrupted
    last = lines(whole)[-2]
    assert {"train/loss", "train/nll", "train/gradient_norm", "train/learning_rate"} <= last.keys()
    assert {"perf/tokens_per_s", "perf/audio_hours_per_s", "perf/data_wait"} <= last.keys()
    assert "perf/mfu" not in last  # no peak is known for a CPU
    # A run that is already finished only reports.
    result = run_train(whole, config, valid=ToyLoader())
    assert result.final["train/loss"] == last["train/loss"]
    assert result.final["eval/nll"] == lines(whole)[-1]["eval/nll"]
    assert result.parameters == 16 * 8 + 2 * 8 + 2 * 2 * 8 * 16 + 8 * 16


def test_loss_falls_and_console_tells_it(tmp_path, caplog):
    config = toy_config(
        optimizer={"learning_rate": 0.03}, train={"steps": 60, "log_every": 20, "eval_every": 30}
    )
    with caplog.at_level("INFO"):
        run_train(tmp_path, with_train(config, eval_batches=1), valid=ToyLoader())
    losses = [line["eval/nll"] for line in lines(tmp_path) if "eval/nll" in line]
    assert losses[1] < losses[0] < np.log(VOCABULARY)
    line = next(m for m in caplog.messages if m.startswith("step 40/60"))
    for part in ("loss", "nll", "lr", "tokens/s", "ETA"):
        assert part in line


def test_evaluation_begins_at_the_same_row_each_time(tmp_path):
    rows = []
    valid = ToyLoader()
    valid.before_next = rows.append
    run_train(
        tmp_path, toy_config(train={"steps": 4, "eval_every": 2, "eval_batches": 2}), valid=valid
    )
    assert rows == [0, 8, 0, 8]


def test_too_many_skipped_steps_stop_the_run(tmp_path):
    gains = dict.fromkeys(range(16, 200), np.inf)
    config = toy_config(optimizer={"max_skipped": 3}, train={"steps": 20})
    message = r"3 steps in a row up to step 5 .* --skip_steps=3:5"
    with pytest.raises(log.DivergenceError, match=message):
        run_train(tmp_path, config, loader=ToyLoader(gains=gains))
    written = [
        (line["step"], line["train/skipped_steps"])
        for line in lines(tmp_path)
        if "train/skipped_steps" in line
    ]
    assert written == [(1, 0), (2, 0), (3, 1), (4, 2)]
    named = [(line["step"], line["skip/batch"]) for line in lines(tmp_path) if "skip/batch" in line]
    assert named == [(3, 3), (4, 4), (5, 5)]
    # A smaller number of bad steps is survived, and leaves no mark on the means.
    gains = dict.fromkeys(range(16, 32), np.inf)
    result = run_train(tmp_path / "b", config, loader=ToyLoader(gains=gains))
    assert result.skipped_steps == 2
    assert np.isfinite(result.final["train/loss"])
    assert "NaN" not in (tmp_path / "b" / jsonl.METRICS_FILE).read_text()


def test_a_diverged_run_goes_on_past_the_batches_it_names(tmp_path):
    gains = dict.fromkeys(range(24, 48), np.nan)  # batches 4, 5 and 6
    config = toy_config(
        optimizer={"max_skipped": 3}, train={"steps": 8, "checkpoint_every_steps": 2}
    )
    with pytest.raises(log.DivergenceError, match=r"--skip_steps=4:6"):
        run_train(tmp_path, config, loader=ToyLoader(gains=gains))
    asked = []
    for steps in (6, 8, 9):  # the same flags again, as a supervisor would start it
        loader = ToyLoader(gains=gains)
        loader.before_next = asked.append
        result = run_train(
            tmp_path, with_train(config, steps=steps), loader=loader, skip_batches=range(4, 7)
        )
    # Step 4 was saved with two bad batches behind it, so the sixth batch alone is passed over.
    assert asked == [48, 56, 64, 72, 80]
    assert result.steps == 9
    saves = manager.Checkpoints(tmp_path, writable=False)
    assert saves.read_record(9)["data"]["skipped"] == [[24, 48]]
    saves.close()


def test_resume_refuses_another_dataset_plan_or_model(tmp_path):
    config = toy_config(train={"steps": 1})
    run_train(tmp_path, config)
    longer = with_train(config, steps=2)
    with pytest.raises(record.CheckpointError, match=r"'dataset-a'.*'dataset-b'"):
        run_train(tmp_path, longer, dataset={"fingerprint": "dataset-b"})
    with pytest.raises(record.CheckpointError, match=r"'plan-a'.*'plan-b'"):
        run_train(tmp_path, longer, loader=ToyLoader(plan="plan-b"))
    model = dataclasses.replace(config.model, dropout=0.5)
    with pytest.raises(record.CheckpointError, match=r"model\.dropout"):
        run_train(tmp_path, dataclasses.replace(longer, model=model))
    assert run_train(tmp_path, longer).steps == 2


def test_resume_on_another_mesh_keeps_the_numbers(tmp_path):
    config = toy_config(train={"steps": 2})
    run_train(tmp_path / "a", config)
    run_train(tmp_path / "b", with_train(config, steps=1))
    wide = dataclasses.replace(config, mesh=MeshConfig(1, 4, 2))
    run_train(tmp_path / "b", wide, devices=jax.devices())
    assert_trees_close(load(tmp_path / "b"), load(tmp_path / "a"), atol=1e-5)


def test_batch_of_the_wrong_shape_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'gain' is \(\(4,\).*expects \(\(8,\)"):
        run_train(tmp_path, toy_config(), loader=ToyLoader(rows=4))


def test_checkpoints_follow_the_clock(tmp_path):
    config = toy_config(train={"steps": 4, "checkpoint_every_minutes": 1e-9, "keep_latest": 9})
    run_train(tmp_path, config)
    assert manager.Checkpoints(tmp_path, writable=False).steps == [1, 2, 3, 4]


def test_failed_background_save_stops_the_run(tmp_path, monkeypatch):
    class Broken:
        def result(self):
            raise OSError("no space left on device")

    save = manager.Checkpoints.save

    def broken(self, *arguments):
        save(self, *arguments)
        self._pending = Broken()

    monkeypatch.setattr(manager.Checkpoints, "save", broken)
    config = toy_config(train={"steps": 50, "checkpoint_every_steps": 1})
    with pytest.raises(storage.StorageError, match=r"checkpoints/1: no space left .* make room"):
        run_train(tmp_path, config)
    assert lines(tmp_path)[-1]["step"] <= 2


def test_best_checkpoints_are_kept(tmp_path):
    config = toy_config(train={"steps": 8, "eval_every": 2, "checkpoint_every_steps": 1})
    config = with_train(config, eval_batches=1, keep_latest=1, keep_best=2)
    run_train(tmp_path, config, valid=ToyLoader())
    losses = {line["step"]: line["eval/loss"] for line in lines(tmp_path) if "eval/loss" in line}
    assert losses.keys() == {2, 4, 6, 8}
    best = sorted(losses, key=losses.__getitem__)[:2]
    saves = manager.Checkpoints(tmp_path, writable=False)
    assert saves.steps == sorted({*best, 8})
    saves.close()
    unknown = with_train(config, best_metric="los")
    with pytest.raises(ConfigError, match=r"train\.best_metric: 'los' is none of .*loss"):
        run_train(tmp_path / "b", unknown, valid=ToyLoader())


def test_metrics_file_survives_a_line_cut_short(tmp_path):
    config = toy_config(train={"steps": 2, "checkpoint_every_steps": 1})
    run_train(tmp_path, config)
    with (tmp_path / jsonl.METRICS_FILE).open("a") as file:
        file.write('{"step": 3, "train/lo')
    run_train(tmp_path, with_train(config, steps=4))
    text = (tmp_path / jsonl.METRICS_FILE).read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2, 3, 4]


def test_a_workdir_in_use_is_refused_and_nothing_in_it_changes(tmp_path):
    """Half-written checkpoints of the live run included, which a start would clear away."""
    half = tmp_path / manager.CHECKPOINT_DIRECTORY / "2.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    with claim.claimed(tmp_path), pytest.raises(UserError, match="another process is writing"):
        run_train(tmp_path, toy_config())
    assert half.exists()
    run_train(tmp_path, with_train(toy_config(), steps=1))
    assert claim.holder(tmp_path) is None
    assert not half.exists()


def test_a_workdir_of_an_odd_name_trains_and_is_read(tmp_path):
    for name in ("a {1} é#%20@\n", "x" * 240):
        run_train(tmp_path / name, with_train(toy_config(), steps=1))
        assert manager.load_params(tmp_path / name).step == 1
    with pytest.raises(UserError, match="choose another directory"):
        run_train(tmp_path / "[1]", toy_config())
    assert not (tmp_path / "[1]").exists()
