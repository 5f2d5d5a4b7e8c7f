"""The program that prints a checkpoint: the same digest for the same parameters, damage refused."""

import json

import jax
import jax.numpy as jnp
import pytest
from toy_run import toy_config

from experiments import inspect_checkpoint
from gpst_jax.checkpoints import manager
from gpst_jax.checkpoints import record as run_record


def write(workdir, params, mesh=None):
    config = toy_config()
    record = run_record.describe_run(config, "Toy", {"fingerprint": "f"})
    saves = manager.Checkpoints(workdir, keep_latest=2)
    if mesh is not None:
        where = jax.NamedSharding(mesh, jax.P("x"))
        params = jax.tree.map(lambda leaf: jax.device_put(leaf, where), params)
    for step in (2, 5):
        saves.save(step, {"params": params}, record | {"data": {"row": 8 * step, "skipped": []}})
    saves.close()


def test_digest_is_of_the_parameters_alone(tmp_path):
    params = {"b": {"kernel": jnp.arange(32.0).reshape(8, 4)}, "a": jnp.ones((8,), jnp.bfloat16)}
    write(tmp_path / "one", params)
    write(tmp_path / "many", params, jax.make_mesh((8,), ("x",)))
    write(tmp_path / "other", params | {"a": params["a"].at[3].set(2)})
    one, many, other = (
        inspect_checkpoint.inspect(tmp_path / name) for name in ("one", "many", "other")
    )
    assert one["params_sha256"] == many["params_sha256"] != other["params_sha256"]
    assert (one["step"], one["steps"], one["parameters"]) == (5, [2, 5], 40)
    assert one["data"] == {"row": 40, "skipped": []}
    assert all(size > 0 for size in one["bytes"].values())
    assert inspect_checkpoint.inspect(tmp_path / "one", 2)["data"]["row"] == 16
    json.dumps(one)


def test_damage_is_named(tmp_path):
    write(tmp_path, {"a": jnp.ones(8)})
    for path in (tmp_path / manager.CHECKPOINT_DIRECTORY / "5").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(run_record.DamagedCheckpointError, match="checkpoints/5"):
        inspect_checkpoint.inspect(tmp_path)
    assert inspect_checkpoint.inspect(tmp_path, 2)["step"] == 2
