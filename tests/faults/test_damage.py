"""A damaged checkpoint is never believed: the run goes on from the one before, or says why not.

A small form runs with the other tests. The full one, by one command:

    GPST_FILE_DAMAGES=6 pytest -s tests/faults/test_damage.py
"""

import contextlib
import json
import os
import random
import shutil

import jax
import numpy as np
import pytest

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading.loader import Loader
from data_pipeline.packing.token_plan import PackingConfig
from experiments.common import load_config
from gpst_jax.checkpoints import manager
from gpst_jax.checkpoints.record import CheckpointError, DamagedCheckpointError
from gpst_jax.objectives import make_objective
from gpst_jax.training import loop


def truncate(data, rng):
    return data[: len(data) // 2]


def empty(data, rng):
    return b""


def flip(data, rng):
    """One bit, anywhere."""
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def remove(data, rng):
    return None


DAMAGES = (truncate, flip, empty, remove, flip, flip)
PER_FILE = int(os.environ.get("GPST_FILE_DAMAGES", "1"))  # of each file; they take turns


def run(workdir, config, dataset):
    data = config.data

    def loader(split):
        packing = PackingConfig(
            sequence_length=data.sequence_length,
            frame_budget=data.frame_budget,
            crop_seconds=data.crop_seconds,
        )
        return Loader(dataset, split, packing, data.batch_size) if split == "train" else None

    spec = DatasetSpec.load(dataset)
    record = json.loads((dataset / "dataset.json").read_text())
    return loop.train(
        config,
        make_objective(config, spec, dataset),
        loader,
        workdir,
        dataset=record,
        devices=jax.devices()[:2],
    )


def params(workdir):
    return jax.device_get(manager.load_params(workdir).params)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Every restart compiles the same programs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_file_damaged_in_turn(dataset, config, cached, tmp_path):
    tiny = load_config(str(config)).override(
        ["train.steps=4", "train.checkpoint_every_steps=2", "mesh.fsdp=2", "data.batch_size=8"]
    )
    whole = tmp_path / "whole"
    run(whole, tiny, dataset)
    good = params(whole)
    newest = whole / manager.CHECKPOINT_DIRECTORY / "4"
    files = sorted(path.relative_to(whole) for path in newest.rglob("*") if path.is_file())
    assert len(files) > 4
    rng = random.Random(0)
    outcomes = {"noticed": 0, "harmless": 0}
    for number, name in enumerate(files):
        for turn in range(PER_FILE):
            damage = DAMAGES[(number + turn) % len(DAMAGES)]
            workdir = tmp_path / "damaged"
            shutil.rmtree(workdir, ignore_errors=True)
            shutil.copytree(whole, workdir)
            data = damage((whole / name).read_bytes(), rng)
            if data is None:
                (workdir / name).unlink()
            else:
                (workdir / name).write_bytes(data)
            with contextlib.suppress(CheckpointError):  # refused: as good as right
                jax.tree.map(np.testing.assert_array_equal, params(workdir), good)
            result = run(workdir, tiny, dataset)  # from step 4, or again from step 2
            assert result.steps == 4
            jax.tree.map(np.testing.assert_array_equal, params(workdir), good)
            manager.Checkpoints(workdir, writable=False).verify(4)  # for other readers, too
            aside = (workdir / manager.DAMAGED_DIRECTORY / "4").is_dir()
            outcomes["noticed" if aside else "harmless"] += 1
    print(f"{len(files)} files: {outcomes}")


@pytest.mark.parametrize("damage", [truncate, empty, remove])
def test_damaged_arrays_are_set_aside(damage, dataset, config, cached, tmp_path):
    """The file that holds most of the bytes is needed: what is wrong with it must be noticed."""
    tiny = load_config(str(config)).override(
        ["train.steps=2", "train.checkpoint_every_steps=1", "mesh.fsdp=2", "data.batch_size=8"]
    )
    run(tmp_path, tiny, dataset)
    good = params(tmp_path)
    newest = tmp_path / manager.CHECKPOINT_DIRECTORY / "2"
    files = [path for path in newest.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = damage(largest.read_bytes(), random.Random(0))
    largest.unlink()
    if data is not None:
        largest.write_bytes(data)
    run(tmp_path, tiny, dataset)
    assert (tmp_path / manager.DAMAGED_DIRECTORY / "2").is_dir()
    jax.tree.map(np.testing.assert_array_equal, params(tmp_path), good)


def test_no_whole_checkpoint_is_a_clear_error(dataset, config, cached, tmp_path):
    tiny = load_config(str(config)).override(
        ["train.steps=2", "train.checkpoint_every_steps=1", "mesh.fsdp=2", "data.batch_size=8"]
    )
    run(tmp_path, tiny, dataset)
    for path in (tmp_path / manager.CHECKPOINT_DIRECTORY).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"begin anew in another --workdir"):
        run(tmp_path, tiny, dataset)
    assert [path for path in before if not path.exists()] == []  # nothing is deleted
    with pytest.raises(CheckpointError):
        params(tmp_path)


def test_a_changed_array_is_found_by_its_checksum(tmp_path, monkeypatch):
    """Even where files are sound: the values themselves are compared."""
    saves = manager.Checkpoints(tmp_path)
    tree = {"kernel": jax.numpy.arange(12.0).reshape(3, 4)}
    saves.save(1, {"params": tree}, {"data": {}})
    saves.wait()
    record = saves.read_record(1)
    saves.close()
    assert record["arrays"]["params"].keys() == {"kernel"}
    wrong = {"kernel": tree["kernel"].at[1, 2].add(1e-6)}
    # The first checkpoint of a process is read back at once; a later one, when it is restored.
    other = manager.Checkpoints(tmp_path / "other", keep_latest=2)
    other.save(1, {"params": tree}, {"data": {}})
    sums = manager.checksums.checksums
    with monkeypatch.context() as patch:
        patch.setattr(manager.checksums, "checksums", lambda unused: sums(tree))
        other.save(2, {"params": wrong}, {"data": {}})
    other.wait()
    shape = jax.ShapeDtypeStruct((3, 4), jax.numpy.float32, sharding=tree["kernel"].sharding)
    with pytest.raises(DamagedCheckpointError, match=r"1 arrays of 'params' .* kernel"):
        other.restore(2, {"params": {"kernel": shape}})
    other.close()
