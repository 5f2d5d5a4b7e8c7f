"""Configurations round-trip through JSON, old ones are read, and errors name the field."""

import dataclasses
import json

import pytest

from gpst_jax import config
from gpst_jax.config import ConfigError, DataConfig, RunConfig, TrainConfig, from_dict
from gpst_jax.config.fields import stored_as


@pytest.fixture(scope="module")
def run():
    """A configuration with other values than the defaults at every level."""
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


def test_integers_are_read_as_floats_where_floats_are_expected(run):
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


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        (DataConfig, "rows", "batch_size"),
        (DataConfig, "row_length", "sequence_length"),
        (DataConfig, "workers", "num_workers"),
        (TrainConfig, "accumulate", "grad_accum_steps"),
    ],
)
def test_former_names_of_fields(section, old, new):
    """`from_dict` reads them, but not beside the present name; the constructor names that."""
    assert from_dict(section, {old: 3}) == section(**{new: 3})
    with pytest.raises(ConfigError, match=rf"x\.{old}: is now x\.{new}, which is given as well"):
        from_dict(section, {old: 3, new: 3}, "x.")
    name = section.__name__
    with pytest.raises(ConfigError, match=rf"{name}\({old}=...\) is now {name}\({new}=...\)"):
        section(**{old: 3})


def test_stored_runs_with_former_names_are_read(run):
    tree = json.loads(run.to_json())
    tree["data"]["rows"] = tree["data"].pop("batch_size")
    tree["train"]["accumulate"] = tree["train"].pop("grad_accum_steps")
    assert RunConfig.from_json(json.dumps(tree)) == run


@pytest.mark.parametrize(
    ("override", "new"),
    [("data.rows=4", "data.batch_size"), ("train.accumulate=2", "train.grad_accum_steps")],
)
def test_overrides_of_former_names_point_to_the_present_ones(run, override, new):
    with pytest.raises(ConfigError, match=rf"is now {new}"):
        run.override([override])


def test_fields_absent_from_a_record_have_their_former_values():
    """Whatever the default of today is; given values and new configurations are not affected."""

    @stored_as(renamed={"depth": "num_layers"}, absent={"rope_base": 300.0})
    @dataclasses.dataclass(frozen=True)
    class Toy:
        num_layers: int = 1
        rope_base: float = 10_000.0

    assert from_dict(Toy, {"depth": 2}) == Toy(num_layers=2, rope_base=300.0)
    assert from_dict(Toy, {"rope_base": 500.0}).rope_base == 500.0
    assert Toy().rope_base == 10_000.0
    assert dataclasses.replace(Toy(), num_layers=3) == Toy(3)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.rope_base", 300.0),
        ("model.rope_time_scale", 1.0),
        ("model.norm_epsilon", 1e-6),
    ],
)
def test_records_from_before_a_field_keep_what_was_computed(run, path, value):
    tree = json.loads(_changed(run, path, 7.0))
    section, name = path.split(".")
    assert getattr(RunConfig.from_json(json.dumps(tree)).model, name) == 7.0
    del tree[section][name]
    assert getattr(RunConfig.from_json(json.dumps(tree)).model, name) == value


def test_configurations_are_frozen_and_hashable(run):
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.name = "other"
    assert len({run, RunConfig.from_json(run.to_json())}) == 1
