"""A run that continues another: the same bits where nothing changed, and refusals by name."""

import dataclasses

import jax
import pytest
from bucket_server import bucket, folder  # noqa: F401
from small_run import CONFIG
from toy_run import (
    ToyLoader,
    ToyObjective,
    compile_once,  # noqa: F401
    toy_config,
    with_train,
)

from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints import manager, record
from gpst_jax.config import RunConfig
from gpst_jax.trackers import jsonl
from gpst_jax.training import continuation, loop, status
from gpst_jax.training.continuation import Source

DATASET = {"fingerprint": "dataset-a", "semantic": {"vocab_size": 12, "path": "x"}}

pytestmark = pytest.mark.usefixtures("compile_once")


def train(workdir, config, *, source=None, plan="plan-a", loader=None, dataset=DATASET):
    return loop.train(
        config,
        ToyObjective(noise=0.1),  # so that a wrong key of a step would show
        {"train": loader or ToyLoader(plan=plan)}.get,
        workdir,
        dataset=dataset,
        devices=jax.devices()[:1],
        source=source,
    )


def read_record(workdir, step):
    saves = manager.Checkpoints(workdir, writable=False)
    try:
        return saves.read_record(step)
    finally:
        saves.close()


def lines(workdir):
    return [
        {name: value for name, value in line.items() if not name.startswith(("time", "perf/"))}
        for line in jsonl.read_metrics(workdir / jsonl.METRICS_FILE)
    ]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    train_section = {"steps": 7, "checkpoint_every_steps": 3, "keep_latest": 9, "ema_decay": 0.9}
    return toy_config(train=train_section)


@pytest.fixture(scope="module")
def stable(config, tmp_path_factory):
    """Seven steps, with checkpoints of steps 3, 6 and 7."""
    workdir = tmp_path_factory.mktemp("stable")
    train(workdir, config)
    return workdir


def test_with_nothing_changed_it_is_the_same_run(stable, config, tmp_path):
    result = train(tmp_path, config, source=Source(str(stable), 3))
    assert (result.steps, result.interrupted) == (7, False)
    found, expected = read_record(tmp_path, 7), read_record(stable, 7)
    # The checksums of parameters, moving average, optimiser state, random numbers and counters.
    assert found["arrays"] == expected["arrays"]
    assert found["data"] == expected["data"]
    assert lines(tmp_path) == [line for line in lines(stable) if line["step"] > 3]
    assert manager.Checkpoints(stable, writable=False).steps == [3, 6, 7]  # only read


@pytest.mark.slow
def test_a_run_in_a_bucket_is_continued_like_any_other(stable, config, folder, tmp_path):  # noqa: F811
    train(folder, with_train(config, steps=3))
    train(tmp_path, config, source=Source(folder, 3))
    found, expected = read_record(tmp_path, 7), read_record(stable, 7)
    assert found["arrays"] == expected["arrays"]
    assert found["data"] == expected["data"]
    (entry,) = found["history"]
    assert entry["workdir"] == folder
    assert entry["run_id"].startswith("toy-")
    train(tmp_path, with_train(config, steps=8), source=Source(folder, 3))  # resumes


def test_its_history_is_in_every_checkpoint_and_in_the_status(stable, config, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, config, source=Source(str(stable), 3))
    longer = with_train(config, steps=9)
    train(second, longer, source=Source(str(first), 6))
    history = read_record(second, 9)["history"]
    assert [(entry["workdir"], entry["step"]) for entry in history] == [
        (str(stable), 3),
        (str(first), 6),
    ]
    assert history[0]["changes"] == []
    assert history[1]["changes"] == ["train.steps: 7 -> 9"]
    assert [entry["data"] for entry in history] == ["continued", "continued"]
    assert history[1]["run_id"] == (first / "run_id").read_text().strip()
    assert "history" not in read_record(stable, 7)
    text = status.format_status(status.read_status(second))
    assert f"continues {first}@6" in text
    assert "train.steps: 7 -> 9" in text


class Stop(Exception):
    """Stands for a crash."""


def crash_at(row):
    loader = ToyLoader()

    def before_next(current):
        if current == row:
            raise Stop

    loader.before_next = before_next
    return loader


@pytest.mark.parametrize("row", [32, 56])  # in step 5, and in step 8 after the checkpoint of 6
def test_killed_it_continues_with_the_same_flag_or_without(row, stable, config, tmp_path):
    longer = with_train(config, steps=8)
    source = Source(str(stable), 3)
    whole = tmp_path / "whole"
    train(whole, longer, source=source)
    leg = tmp_path / "leg"
    with pytest.raises(Stop):
        train(leg, longer, source=source, loader=crash_at(row))
    train(leg, longer, source=source)
    assert read_record(leg, 8)["arrays"] == read_record(whole, 8)["arrays"]
    assert lines(leg) == lines(whole)
    assert read_record(leg, 8)["history"][0]["step"] == 3
    with pytest.raises(record.CheckpointError, match=r"stable.*@6: .* continues .*@3: leave"):
        train(leg, longer, source=Source(str(stable), 6))
    with pytest.raises(record.CheckpointError, match="does not continue another run"):
        train(stable, longer, source=source)
    assert train(leg, with_train(config, steps=9)).steps == 9
    assert len(read_record(leg, 9)["history"]) == 1


def test_a_decay_leg_has_its_own_schedule(stable, config, tmp_path):
    schedule = dataclasses.replace(config.optimizer, schedule="wsd", decay_fraction=0.4)
    decay = dataclasses.replace(with_train(config, steps=10), optimizer=schedule)
    train(tmp_path, decay, source=Source(str(stable), 6))
    rates = [line["train/learning_rate"] for line in lines(tmp_path)]
    peak = config.optimizer.learning_rate
    assert rates == pytest.approx([peak, 0.75 * peak, 0.5 * peak, 0.25 * peak])
    changes = read_record(tmp_path, 10)["history"][0]["changes"]
    assert "optimizer.schedule: 'inverse_sqrt' -> 'wsd'" in changes


def test_other_data_begins_anew_and_says_so(stable, config, tmp_path, caplog):
    data = dataclasses.replace(config.data, path="tokens/clean")
    other = dataclasses.replace(config, data=data)
    dataset = DATASET | {"fingerprint": "dataset-b"}
    source = Source(str(stable), 3)
    with caplog.at_level("WARNING"):
        train(tmp_path, other, source=source, plan="plan-b", dataset=dataset)
    saved = read_record(tmp_path, 7)
    assert saved["data"]["row"] == 4 * 8  # steps 4 to 7
    assert saved["history"][0]["data"] == "begun anew"
    assert any("data begins anew" in message for message in caplog.messages)


def replaced(config, name, value):
    section, _, field = name.partition(".")
    changed = dataclasses.replace(getattr(config, section), **{field: value})
    return dataclasses.replace(config, **{section: changed})


FORBIDDEN = {
    "model.block": "paper",
    "optimizer.name": "muon",
    "train.seed": 1,
    "train.init_from": "elsewhere",
    "train.ema_decay": 0.0,
    "train.steps": 3,
    "data.positions": "running",
    "data.sequence_length": 1024,
    "data.seed": 5,
}
FREE = {
    "model.dropout": 0.1,
    "model.label_smoothing": 0.1,
    "model.codebook_weights": "moshi",
    "model.z_loss": 1e-4,
    "optimizer.learning_rate": 1e-4,
    "optimizer.schedule": "cosine",
    "train.ema_decay": 0.99,
    "train.grad_accum_steps": 2,
    "data.batch_size": 16,
    "data.num_workers": 2,
    "mesh.tensor": 2,
}


def compared(config, other, *, dataset=DATASET, plan="p"):
    saved = record.describe_run(config, "Toy", DATASET) | {"data": {"plan": "p"}}
    current = record.describe_run(other, "Toy", dataset) | {"data": {"plan": plan}}
    return continuation.compare(saved, current, Source("runs/a", 3))


@pytest.mark.parametrize(("name", "value"), FORBIDDEN.items())
def test_what_the_state_depends_on_may_not_change(name, value, config):
    with pytest.raises(record.CheckpointError) as caught:
        compared(config, replaced(config, name, value))
    assert name in str(caught.value)
    assert "runs/a@3" in str(caught.value)


def test_all_else_may_change(config):
    for name, value in FREE.items():
        found = compared(config, replaced(config, name, value))
        assert len(found.changes) == 1
        assert found.changes[0].startswith(f"{name}: ")
        assert found.keeps_data
    # Other rows, of the same data: refused above; of other data they are no loss.
    elsewhere = replaced(replaced(config, "data.path", "b"), "data.seed", 5)
    assert not compared(config, elsewhere, plan="q").keeps_data
    # A mixture with other weights has the same path.
    assert not compared(config, config, plan="q").keeps_data


def test_other_tokenizers_are_refused_by_name(config):
    moved = DATASET | {"fingerprint": "b", "semantic": {"vocab_size": 12, "path": "y"}}
    assert compared(config, config, dataset=moved).changes == []
    other = DATASET | {"fingerprint": "b", "semantic": {"vocab_size": 20, "path": "x"}}
    with pytest.raises(record.CheckpointError, match=r"semantic\.vocab_size is 12.* has 20"):
        compared(config, config, dataset=other)


def test_a_missing_checkpoint_or_a_malformed_flag_is_named(stable, config, tmp_path):
    with pytest.raises(record.CheckpointError, match=r"step 5 .*holds the steps \[3, 6, 7\]"):
        train(tmp_path, config, source=Source(str(stable), 5))
    assert continuation.parse_source("continue_from", "runs/a@b@12") == Source("runs/a@b", 12)
    for text in ("runs/a", "runs/a@", "@3", "runs/a@new"):
        with pytest.raises(UserError, match=r"--continue_from=.*give RUN@STEP"):
            continuation.parse_source("continue_from", text)


@pytest.fixture
def file(tmp_path):
    """File of a tiny run."""
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_program_continues_real_data_bit_identically(dataset, file, start, tmp_path):
    command = [
        *("experiments.pretrain", f"--config={file}", f"--config.data.path={dataset}"),
        *("--config.train.checkpoint_every_steps=2", "--config.train.steps=6"),
        "--config.train.keep_latest=5",
    ]
    legs = {"whole": [], "leg": [f"--continue_from={tmp_path / 'whole'}@4"]}
    for name, more in legs.items():
        program = start(*command, f"--workdir={tmp_path / name}", *more)
        assert program.wait(250) == 0, program.text()
    assert "continuing from" in program.text()
    found, expected = (read_record(tmp_path / name, 6) for name in ("leg", "whole"))
    assert found["arrays"] == expected["arrays"]
    assert found["data"] == expected["data"]
    program = start(*command, f"--workdir={tmp_path / 'other'}", "--continue_from=nowhere")
    assert program.wait(250) == 2
    assert "--continue_from=nowhere: give RUN@STEP" in program.text()
