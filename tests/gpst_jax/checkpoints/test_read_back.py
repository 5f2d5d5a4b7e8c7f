"""The first checkpoint of a process is read back before anything relies on it."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stored_checkpoint import make_params, write_run

from gpst_jax.checkpoints import manager
from gpst_jax.checkpoints.checksums import checksums
from gpst_jax.checkpoints.record import DamagedCheckpointError
from gpst_jax.checkpoints.storage import StorageError
from gpst_jax.checkpoints.stored_arrays import context, open_array, stored_checksum


def damage(directory, what):
    files = sorted(path for path in (directory / "params").rglob("*") if path.is_file())
    if what == "arrays":
        shutil.rmtree(directory / "params" / "d")
        return
    largest = max((f for f in files if "/d/" in str(f)), key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 16
    largest.write_bytes(data)


@pytest.fixture
def failing_disk(monkeypatch):
    """Damages the first checkpoint as soon as it is complete."""

    def begin(what):
        wait = manager.Checkpoints.wait

        def and_damage(self):
            pending = self._pending
            wait(self)
            if pending is not None:
                damage(self.directory / str(self._pending_step), what)

        monkeypatch.setattr(manager.Checkpoints, "wait", and_damage)

    return begin


@pytest.mark.parametrize("what", ["arrays", "bit"])
def test_a_first_checkpoint_that_cannot_be_read_ends_the_run(tmp_path, failing_disk, what):
    write_run(tmp_path, steps=(1,))
    failing_disk(what)
    saves = manager.Checkpoints(tmp_path, keep_latest=1)
    params = {"a": {"kernel": jax.random.normal(jax.random.key(0), (64, 64))}}
    with pytest.raises(StorageError, match="a moment after it was written"):
        saves.save(2, {"params": params}, {"data": {}})
    saves.close()
    assert (tmp_path / manager.DAMAGED_DIRECTORY / "2").is_dir()
    assert manager.load_params(tmp_path).step == 1  # not removed before the next was sound


def test_only_the_first_is_read_back(tmp_path, monkeypatch):
    read = []
    original = manager.Checkpoints.read_back

    def noted(self, step):
        read.append(step)
        original(self, step)

    monkeypatch.setattr(manager.Checkpoints, "read_back", noted)
    write_run(tmp_path, steps=(1, 2, 3))
    write_run(tmp_path, steps=(4, 5))
    assert read == [1, 4]


def test_it_sees_what_a_complete_restore_sees(tmp_path):
    write_run(tmp_path, steps=(1,))
    saves = manager.Checkpoints(tmp_path, writable=False)
    saves.read_back(1)
    damage(saves.directory / "1", "arrays")
    with pytest.raises(DamagedCheckpointError):
        saves.read_back(1)


def test_checksums_from_files_are_those_of_the_devices(tmp_path):
    key = jax.random.key(0)
    tree = {
        "f": jax.random.normal(key, (13, 7, 5)),
        "b": jax.random.normal(key, (33, 4)).astype(jnp.bfloat16),
        "t": jnp.array([True, False, True]),
        "i": jnp.int32(-5),
        "u": jax.random.key_data(key),
    }
    saves = manager.Checkpoints(tmp_path)
    saves.save(1, {"params": make_params(), "x": tree}, {})
    saves.close()
    for path, value in checksums(tree).items():
        array = open_array(tmp_path / "checkpoints" / "1" / "x", path, context())
        assert stored_checksum(array, 64) == value
        assert np.dtype(array.dtype.numpy_dtype) == tree[path].dtype
