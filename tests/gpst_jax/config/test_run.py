"""Configurations survive JSON, and a bad one is an error that names the field."""

import dataclasses
import json

import pytest

from gpst_jax import config
from gpst_jax.config import ConfigError, RunConfig


@pytest.fixture(scope="module")
def run():
    """A configuration with values that are not the defaults at every level."""
    return RunConfig(
        name="toy",
        model=config.GPSTConfig(
            global_net=config.TransformerConfig(32, 2, 4, 64),
            local_net=config.TransformerConfig(16, 3, 2, 32),
            block="paper",
            local_drop=0.5,
            label_smoothing=0.1,
        ),
        data=config.DataConfig(path="tokens", batch_size=6, positions="running", deduplicate=True),
        optimizer=config.OptimizerConfig(schedule="inverse_sqrt", learning_rate=4e-4),
        train=config.TrainConfig(grad_accum_steps=3),
        mesh=config.MeshConfig(tensor=2),
    )


def _changed(run, path, value):
    tree = json.loads(run.to_json())
    node = tree
    *parents, leaf = path.split(".")
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    return json.dumps(tree)


def test_json_round_trip(run):
    assert RunConfig.from_json(run.to_json()) == run


def test_json_round_trip_of_defaults(run):
    small = RunConfig(name="x", model=run.model)
    assert RunConfig.from_json(small.to_json()) == small


@pytest.mark.parametrize("path", ["learning_rate", "optimizer.lr", "model.global_net.width"])
def test_unknown_keys_are_refused(run, path):
    with pytest.raises(ConfigError, match=f"{path}: unknown"):
        RunConfig.from_json(_changed(run, path, 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.steps", "many"),
        ("train.steps", 1.5),
        ("train.steps", True),
        ("train.steps", None),
        ("data.deduplicate", 1),
        ("data.path", 3),
        ("model.label_smoothing", "0.1"),
        ("model", 3),
        ("model.global_net", [32, 2, 4, 64]),
    ],
)
def test_values_of_another_type_are_refused(run, path, value):
    with pytest.raises(ConfigError, match=path):
        RunConfig.from_json(_changed(run, path, value))


def test_a_whole_number_is_a_fraction_too(run):
    read = RunConfig.from_json(_changed(run, "data.crop_seconds", 10))
    assert read.data.crop_seconds == 10.0
    assert isinstance(read.data.crop_seconds, float)


def test_a_missing_field_without_default_is_named(run):
    tree = json.loads(run.to_json())
    del tree["model"]["local_net"]["d_ff"]
    with pytest.raises(ConfigError, match=r"model\.local_net\.d_ff: missing"):
        RunConfig.from_json(json.dumps(tree))


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("model.global_net.num_heads", 5, "num_heads"),
        ("model.local_net.num_layers", 0, "num_layers"),
        ("model.block", "fairseq", "block"),
        ("model.dtype", "float16", "dtype"),
        ("model.local_drop", 1.5, "local_drop"),
        ("model.label_smoothing", -0.1, "label_smoothing"),
        ("data.batch_size", 0, "batch_size"),
        ("data.batch_size", 8, "grad_accum_steps"),  # three micro-batches
        ("data.positions", "time", "positions"),  # de-duplicated
        ("optimizer.schedule", "linear", "schedule"),
        ("optimizer.warmup_steps", -1, "warmup_steps"),
        ("train.log_every", 0, "log_every"),
        ("mesh.tensor", -1, "mesh"),  # fsdp takes the rest already
        ("mesh.fsdp", 0, "mesh"),
    ],
)
def test_inconsistent_values_are_refused(run, path, value, field):
    with pytest.raises(ConfigError, match=field):
        RunConfig.from_json(_changed(run, path, value))


def test_overrides(run):
    changed = run.override(
        ["train.steps=7", "model.block=modern", "data.path=a b", "optimizer.clip_norm=2"]
    )
    assert changed.train.steps == 7
    assert changed.model.block == "modern"
    assert changed.data.path == "a b"
    assert changed.optimizer.clip_norm == 2.0
    assert changed.model.global_net == run.model.global_net
    assert run.train.steps != 7
    assert run.override(["data.path=2024"]).data.path == "2024"
    assert run.override(['data.path="2024"']).data.path == "2024"


@pytest.mark.parametrize(
    "override", ["train.stepz=7", "steps=7", "train.steps", "train.steps=x", "train.steps.x=1"]
)
def test_bad_overrides_are_refused(run, override):
    with pytest.raises(ConfigError, match="step"):
        run.override([override])


def test_configurations_are_frozen_and_hashable(run):
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.name = "other"
    assert len({run, RunConfig.from_json(run.to_json())}) == 1
