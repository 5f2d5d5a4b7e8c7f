"""Checkpoints: exact round trips onto other shardings, what is kept, and clear failures."""

import dataclasses
import json
import resource
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from stored_checkpoint import CONFIG, DATASET, make_params, write_run

from gpst_jax.checkpoints import manager, storage
from gpst_jax.checkpoints import record as run_record
from gpst_jax.config import TrainConfig


def test_a_checkpoint_describes_itself(tmp_path):
    record = write_run(tmp_path, steps=(1, 2))
    loaded = manager.load_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, make_params(2))
    assert (loaded.config, loaded.dataset, loaded.step) == (CONFIG, DATASET, 2)
    assert manager.load_params(tmp_path, step=1).step == 1
    reader = manager.Checkpoints(tmp_path, writable=False)
    found = reader.read_record(2)
    arrays = found.pop("arrays")["params"]
    assert {path: array[:2] for path, array in arrays.items()} == {
        "a/kernel": [[4, 8], "float32"],
        "b/scale": [[8], "float32"],
    }
    assert found == record
    assert record["code_version"]


def test_restore_moves_to_another_sharding(tmp_path):
    devices = np.array(jax.devices())
    sharded = NamedSharding(jax.sharding.Mesh(devices.reshape(2, 4), ("x", "y")), jax.P("x", "y"))
    kernel = jax.device_put(make_params()["a"]["kernel"], sharded)
    write_run(tmp_path, params={"a": {"kernel": kernel}})
    other = NamedSharding(jax.sharding.Mesh(devices[:2], ("z",)), jax.P(None, "z"))
    loaded = manager.load_params(
        tmp_path, shardings=lambda shapes: jax.tree.map(lambda _: other, shapes)
    )
    assert loaded.params["a"]["kernel"].sharding == other
    np.testing.assert_array_equal(loaded.params["a"]["kernel"], make_params()["a"]["kernel"])
    one = manager.load_params(tmp_path).params["a"]["kernel"]
    assert one.devices() == {jax.local_devices()[0]}


def test_ema_is_loaded_where_it_is_kept(tmp_path):
    config = dataclasses.replace(CONFIG, train=TrainConfig(ema_decay=0.9))
    write_run(tmp_path, config, ema=make_params(100))
    for average, seed in ((True, 100), (False, 1)):
        params = manager.load_params(tmp_path, average=average).params
        jax.tree.map(np.testing.assert_array_equal, params, make_params(seed))


def test_latest_and_every_nth_are_kept(tmp_path):
    saves = manager.Checkpoints(tmp_path, keep_latest=2, keep_every=4)
    for step in range(1, 8):
        saves.save(step, {"params": make_params()}, {"data": {}})
    saves.close()
    assert manager.Checkpoints(tmp_path, writable=False).steps == [4, 6, 7]


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(run_record.CheckpointError, match=r"no checkpoints in .*nowhere"):
        manager.load_params(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    write_run(tmp_path, steps=(1, 2))
    with pytest.raises(run_record.CheckpointError, match=r"step 3 in .*holds the steps \[1, 2\]"):
        manager.load_params(tmp_path, step=3)


def test_half_written_checkpoints_are_replaced_by_the_writer_only(tmp_path):
    write_run(tmp_path)
    half = tmp_path / manager.CHECKPOINT_DIRECTORY / "2.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    assert manager.load_params(tmp_path).step == 1
    assert half.exists()  # a live run may be writing it
    write_run(tmp_path, steps=(2,))
    assert not half.exists()
    jax.tree.map(
        np.testing.assert_array_equal, manager.load_params(tmp_path).params, make_params(2)
    )


def test_failure_of_a_background_save_surfaces(tmp_path):
    saves = manager.Checkpoints(tmp_path, keep_latest=2)
    saves.save(1, {"params": make_params()}, {"data": {}})
    saves.wait()
    big = {"params": jax.random.normal(jax.random.key(0), (1 << 20,))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files stands in for a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))

    def poll():
        for _ in range(600):
            saves.check()
            time.sleep(0.05)

    try:
        saves.save(2, big, {"data": {}})
        with pytest.raises(storage.StorageError, match=r"checkpoints/2: .*make room"):
            poll()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert manager.Checkpoints(tmp_path, writable=False).steps == [1]


def test_resume_rules():
    old = run_record.describe_run(CONFIG, "Toy", DATASET) | {"data": {"plan": "p"}}
    new = json.loads(json.dumps(old))
    assert run_record.check_resume(old, new, "w") == []
    new["config"]["train"]["steps"] = 5
    new["config"]["optimizer"]["learning_rate"] = 1.0
    assert run_record.check_resume(old, new, "w") == [
        "optimizer.learning_rate: 0.0005 -> 1.0",
        "train.steps: 1000 -> 5",
    ]
    new["config"]["model"]["global_net"]["d_model"] = 10
    with pytest.raises(run_record.CheckpointError, match=r"w: .*global_net\.d_model is 8.* has 10"):
        run_record.check_resume(old, new, "w")
